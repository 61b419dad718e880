"""The conversation: talks, remembers, forgets, and keeps what people think of its replies."""
