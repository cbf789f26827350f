"""The HTTP API: dialects parse requests into `GenerationRequest`s and encode deltas; see `app.py`, `ports.py`."""
