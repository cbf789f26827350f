"""exo-node: one language model across several machines, behind one OpenAI-compatible API."""

__version__ = "0.1.0"
