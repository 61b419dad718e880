"""What both services need and nothing about either."""
