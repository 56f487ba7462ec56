"""Measurements on a machine with an NVIDIA GPU: `bench/gpu/run`, see README.md beside it."""
