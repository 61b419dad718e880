"""What a message is about: zero-shot intent classification over HTTP."""
