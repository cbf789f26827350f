"""The `exo` command: one module per group of verbs, imported when its verb is called.

The client verbs talk to a running node over HTTP with the standard library only; neither aiohttp nor grpc is imported.
"""
