"""exo-node: language models of your machines together and of providers, behind one OpenAI-compatible API."""

__version__ = "0.1.0"
