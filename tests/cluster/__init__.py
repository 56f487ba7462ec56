"""Tests on three container engines of their own; `make cluster-test` runs them."""
