"""The tinygrad engine: our own config-driven decoder. Importing this package imports no framework.

`support.check` says whether a model runs (pure), `engine.TinygradShardEngine` runs one shard of it.
"""
