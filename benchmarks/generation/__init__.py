"""How fast replies come: `python -m benchmarks.generation` writes benchmarks/generation.md."""
