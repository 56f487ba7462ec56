"""A small client for OpenAI-compatible servers, over unix sockets or loopback.

The standard library's `http.client` on a socket of our own: the peer can be
checked before a prompt is sent, and closing it is what cancels a request.
"""

from llmlab.client.client import Client
from llmlab.client.connection import Cancel, Opener, Verify
from llmlab.client.exchange import ChatRequest, Completion

__all__ = ["Cancel", "ChatRequest", "Client", "Completion", "Opener", "Verify"]
