"""Isolation: what is asked for (profile), and what is in force (receipt)."""

from llmlab.isolation.facts import ProcessFacts, process_facts
from llmlab.isolation.profile import create_request
from llmlab.isolation.receipt import receipt
from llmlab.isolation.sources import Sources

__all__ = ["ProcessFacts", "Sources", "create_request", "process_facts", "receipt"]
