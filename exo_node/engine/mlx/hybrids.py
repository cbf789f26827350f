"""Families that mix attention with layers of recurrent state: what mlx-lm's files want to be told, and what states
take. Pure.

In mlx-lm's cache for such a layer the arrays are: of a short convolution its latest inputs; of a state-space layer
those of its convolution, and the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exo_node.engine.mlx.recurrent import INPUTS, STATES

Config = Mapping[str, Any]
# Kinds of layers, as models/config.py spells them -> arrays that mlx-lm keeps of one.
_STATES: Mapping[str, int] = {"conv": 1, "mamba": 2}
_FAMILIES = ("lfm2", "granitemoehybrid")


def layer_states(config: Config) -> tuple[int, ...]:
    """For each layer how many arrays its recurrent state has; 0 = it is none of these."""
    n, kinds = config["num_hidden_layers"], config.get("layer_types")
    if config.get("model_type") not in _FAMILIES or not kinds:
        return (0,) * n
    return tuple(_STATES.get(kind, 0) for kind in kinds)


def slot_bytes(config: Config, element: int) -> int:
    """Bytes that one recurrent layer holds of one sequence at most, whatever its length, computing in elements of so
    many bytes. mlx-lm keeps what a state-space layer sums up in float32 always."""
    inputs = INPUTS * config["hidden_size"] * element
    if config["model_type"] == "lfm2":
        return int(STATES * (config["conv_L_cache"] - 1) * config["hidden_size"] * element + inputs)
    inner = config["mamba_n_heads"] * config["mamba_d_head"]
    convolution = (config["mamba_d_conv"] - 1) * (inner + 2 * config["mamba_n_groups"] * config["mamba_d_state"])
    return int(STATES * (4 * inner * config["mamba_d_state"] + element * convolution) + inputs)


def lfm2(config: Config, context: int) -> dict[str, Any]:
    """Some fields have other names there; a list of the attention layers would win over `layer_types`."""
    return {
        **config,
        "block_dim": config["hidden_size"],
        "block_ff_dim": config["intermediate_size"],
        "full_attn_idxs": [i for i, kind in enumerate(config["layer_types"]) if kind == "full_attention"],
    }


def granite(config: Config, context: int) -> dict[str, Any]:
    """A dense model's MLP is the "shared" one there too; no word on positions means none, which is "nope" there."""
    return {
        **config,
        "intermediate_size": config["shared_intermediate_size"],
        "layer_types": ["mamba" if kind == "mamba" else "attention" for kind in config["layer_types"]],
        "position_embedding_type": "rope" if config.get("position_embedding_type") == "rope" else "nope",
    }
