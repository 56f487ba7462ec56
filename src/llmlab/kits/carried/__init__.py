"""What every kit carries for a machine without llmlab: files that are copied, not imported."""
