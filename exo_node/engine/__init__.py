"""Engines: what turns token ids into hidden states into logits, on one device, for one shard."""
