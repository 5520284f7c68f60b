"""Time and memory of activestore beside every peer, and beside what the machine allows: `python -m benchmarks`."""
