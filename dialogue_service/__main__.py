"""`python -m dialogue_service` serves the dialogue service."""

from dialogue_service.app import create_app
from dialogue_service.settings import DialogueSettings
from shared.service import main

main(DialogueSettings, create_app)
