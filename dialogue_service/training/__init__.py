"""Trains the models that the dialogue service talks with; nothing of it runs inside the service."""
