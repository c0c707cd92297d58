"""Single rooms under pytest-benchmark: `pytest benchmarks/rooms -p benchmark`."""
