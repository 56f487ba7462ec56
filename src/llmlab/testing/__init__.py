"""Servers to try llmlab against without a network. Nothing here imports llmlab."""
