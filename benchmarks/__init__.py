"""Ours against a peer, in one run, as a ratio: `python -m benchmarks.NAME --json` prints one JSON object a line."""
