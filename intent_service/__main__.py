"""`python -m intent_service` serves until told to stop."""

from fastapi import FastAPI

from intent_service.settings import IntentSettings
from shared import service


def _create_app(settings: IntentSettings) -> FastAPI:
    # Imported once the settings are known to be right: it takes seconds, for torch comes with it.
    from intent_service.app import create_app

    return create_app(settings)


if __name__ == "__main__":
    service.main(IntentSettings, _create_app)
