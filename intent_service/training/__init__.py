"""Learns intents from examples, and fits the calibration; nothing of it runs inside the service."""
