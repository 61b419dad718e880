"""The dialogue service's routes, one file for each part of the wire."""
