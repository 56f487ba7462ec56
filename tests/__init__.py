"""The tests: real engines, real containers, a real browser."""
