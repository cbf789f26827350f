"""What a model's generation_config.json says: how to sample, and where texts end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exo_node.errors import CheckpointError
from exo_node.models.headers import optional_json

_DEFAULT_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def generation_defaults(path: Path) -> dict[str, float]:
    """Sampling values that the model's generation_config.json recommends (temperature, top_p, top_k, min_p, ...).

    Empty where the file is missing. `do_sample: false` with no temperature means greedy: temperature 0.
    """
    config = optional_json(path / "generation_config.json")
    out: dict[str, float] = {}
    for field in _DEFAULT_FIELDS:
        value = config.get(field)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{path / 'generation_config.json'}: field '{field}' is {value!r}, want a number")
        out[field] = value
    if config.get("do_sample") is False and "temperature" not in out:
        out["temperature"] = 0.0
    return out


def eos_ids(path: Path) -> frozenset[int]:
    """Every id that ends a text: generation_config.json's, else config.json's. Raises `CheckpointError` for others."""
    for name in ("generation_config.json", "config.json"):
        config = optional_json(path / name)
        value = config.get("eos_token_id")
        if value is None and isinstance(config.get("text_config"), Mapping):
            value = config["text_config"].get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
            raise CheckpointError(f"{path / name}: field 'eos_token_id' is {value!r}, want an id or a list of ids")
        return frozenset(ids)
    return frozenset()
