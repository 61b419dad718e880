"""Measures how well messages are classified; nothing of it runs inside the service."""
