"""`python -m dialogue_service` serves until told to stop."""

from fastapi import FastAPI

from dialogue_service.settings import DialogueSettings
from shared import service


def _create_app(settings: DialogueSettings) -> FastAPI:
    # Imported once the settings are known to be right: it takes seconds, for torch comes with it.
    from dialogue_service.app import create_app

    return create_app(settings)


if __name__ == "__main__":
    service.main(DialogueSettings, _create_app)
