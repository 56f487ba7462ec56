"""Benchmarks: ratios of two things measured side by side, in one run. See README.md."""
