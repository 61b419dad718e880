"""Generators and small programs around the services."""
