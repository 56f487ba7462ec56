"""Stand-ins for Ollama and vLLM, for trying and testing where their images cannot be had.

Each speaks its engine's documented API and says in its version that it is a stand-in. Its
text is real: behind it runs llama.cpp's own llama-server. `image` makes a container image
of one, from files of this machine.
"""

MARK = "llmlab stand-in"
"""What stands in the version that each of them tells."""
