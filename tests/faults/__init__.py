"""The faults that llmlab promises to survive, each brought about for real."""
