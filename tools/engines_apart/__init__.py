"""Container engines on one machine, each as if on a machine of its own; see `tools/three_engines.py`."""
