"""Isolation: what is asked for (profile), and what is in force (receipt)."""

from llmlab.isolation.profile import create_request
from llmlab.isolation.receipt import process_facts, receipt

__all__ = ["create_request", "process_facts", "receipt"]
