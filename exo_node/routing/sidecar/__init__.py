"""The LiteLLM sidecar: worker processes that translate OpenAI-shaped calls into every provider's own wire format.

`python -m exo_node.routing.sidecar --socket PATH` is a worker; `routing/upstream/service.py` owns them. Only the
worker's side (engine.py, diagnosis.py and what loads them) imports litellm; process.py, protocol.py and masking.py are
the daemon's side too.

    daemon: service.py -> process.py   --pipe-->   __main__.py -> server.py -> calls.py, relay.py -> litellm
                     (protocol.py: what the pipe says)      diagnosis.py, prompted_tools.py, queries.py
"""
