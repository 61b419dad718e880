"""How good a model talks, in numbers; a candidate beside the model in service."""
