"""Side by side with the peers, in one run; `python -m benchmarks.networks` and its siblings run from the root."""
