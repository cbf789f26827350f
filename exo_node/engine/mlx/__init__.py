"""The MLX engine: one shard of a model over mlx-lm's own model classes (ENGINES.md 1).

families.py  which models, and what mlx-lm's reading of a config needs (pure)
support.py   refuses by name what is not run (pure)
modules.py   imports MLX and mlx-lm's model files without the rest of mlx-lm
load.py      a shard's tensors into the model, one at a time
cache.py     KV slots
batch.py     one token each of several slots in one pass
stage.py     the generic stage: a shard's layers inside the whole model
threads.py   ends a thread's MLX streams
engine.py    MLXShardEngine

Importing this package, families or support imports no framework.
"""
