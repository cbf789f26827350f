"""Hostile input at every border: what `scripts/fuzz` runs by the million, and a sample of it in the default suite."""
