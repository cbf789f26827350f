"""Refuse by name, before anything loads, what the MLX engine would run wrongly or not at all. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exo_node.engine.mlx.families import FAMILIES, Family, layer_windows
from exo_node.engine.mlx.hybrids import layer_states
from exo_node.errors import UnsupportedModel
from exo_node.types import Shard

COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
TENSOR_DTYPES = ("F32", "BF16", "F16")


def check(config: Mapping[str, Any], shard: Shard) -> None:
    """Raise `UnsupportedModel` unless the MLX engine runs `shard` of the model with this (normalised) config.

    The message names the architecture, the field or the cut at fault.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(str(model_type))
    if family is None:
        raise UnsupportedModel(
            f"model type {model_type!r} is not run by the mlx engine; it runs {', '.join(sorted(FAMILIES))}"
        )
    _check_config(str(model_type), family, config)
    _check_cut(str(model_type), config, shard)


def _check_config(model_type: str, family: Family, config: Mapping[str, Any]) -> None:
    # gemma's configs have both fields and transformers reads hidden_activation
    activation = config.get("hidden_activation") or config.get("hidden_act")
    if activation is not None and activation not in family.activations:
        raise UnsupportedModel(f"{model_type} with activation {activation!r} is not run by the mlx engine")
    scaling = config.get("rope_scaling") or {}
    rope = scaling.get("rope_type") or scaling.get("type") or "default"
    if rope not in family.ropes:
        raise UnsupportedModel(f"{model_type} with rope scaling {rope!r} is not run by the mlx engine")
    if rope == "longrope" and "attention_factor" in scaling:
        raise UnsupportedModel(f"{model_type} with a rope attention_factor of its own is not run by the mlx engine")
    for field, allowed in family.fixed:
        if config.get(field) not in allowed:
            raise UnsupportedModel(f"{model_type} with {field} {config[field]!r} is not run by the mlx engine")
    if model_type in ("qwen2", "phi3", "lfm2", "granitemoehybrid"):
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        if config.get("head_dim") not in (None, hidden // heads):
            raise UnsupportedModel(f"{model_type} with head_dim {config['head_dim']} is not run by the mlx engine")
    if model_type == "gemma2" and None in (config.get("attn_logit_softcapping"), config.get("final_logit_softcapping")):
        raise UnsupportedModel("gemma2 without logit soft-capping is not run by the mlx engine")
    if any(layer_states(config)) and "full_attention" not in config["layer_types"]:
        raise UnsupportedModel(f"{model_type} without a layer of attention is not run by the mlx engine")
    family.adapt(config, 1)
    if len(layer_windows(config)) != config["num_hidden_layers"]:
        raise UnsupportedModel(f"{model_type} whose layer_types do not name every layer is not run by the mlx engine")


def _check_cut(model_type: str, config: Mapping[str, Any], shard: Shard) -> None:
    if shard.n_layers != config["num_hidden_layers"]:
        raise UnsupportedModel(
            f"shard of {shard.n_layers} layers, but the {model_type} model has {config['num_hidden_layers']}"
        )
    if shard.n_owned == 0 and shard.start_layer != 0:
        raise UnsupportedModel(f"a shard without layers at layer {shard.start_layer}: only a head may hold none")
    if config.get("num_kv_shared_layers"):
        raise UnsupportedModel(
            f"{model_type} with num_kv_shared_layers {config['num_kv_shared_layers']} is not run by the mlx engine: "
            "layers that share keys and values cannot be cut"
        )
