"""Does the tinygrad engine run this model, cut like this? Pure: processes without tinygrad call it before any load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exo_node.engine.tinygrad.spec import decoder_spec
from exo_node.errors import UnsupportedModel
from exo_node.types import Shard


def check(config: Mapping[str, Any], shard: Shard) -> None:
    """Raise `UnsupportedModel` naming the architecture or cut that is not run; `CheckpointError` for a
    config that lacks a field. `config` is normalised (models/config.py). Any cut between layers of a supported family
    is right: no family here shares state between layers.
    """
    spec = decoder_spec(config)
    if shard.n_layers != len(spec.layers):
        raise UnsupportedModel(
            f"tinygrad: cut [{shard.start_layer}, {shard.end_layer}) of {shard.n_layers} layers does not fit "
            f"{spec.architecture} with {len(spec.layers)} layers"
        )
