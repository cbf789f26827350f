"""config.json of the families that mix attention with layers of recurrent state (see config.py). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exo_node.errors import CheckpointError, UnsupportedModel

FULL, CONV, MAMBA = "full_attention", "conv", "mamba"

# What transformers 5.23 assumes of an Lfm2Config that is silent.
_LFM2: Mapping[str, Any] = {
    "num_key_value_heads": 8,
    "max_position_embeddings": 128_000,
    "norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Of a GraniteMoeHybridConfig; None of head_dim: derived.
_GRANITE: Mapping[str, Any] = {
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "shared_intermediate_size": 1024,
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# transformers 4 and 5 name the same kinds differently.
_GRANITE_KINDS: Mapping[str, str] = {
    "mamba": MAMBA, "linear_attention": MAMBA, "attention": FULL, FULL: FULL,
}  # fmt: skip
_NO_LIMIT = 3e38  # for infinity, which JSON does not have


def normalise_hybrid(out: dict[str, Any]) -> None:
    """Complete `out` with its family's defaults, and name the kind of every layer: "full_attention", "conv", "mamba".

    Of another family's config nothing is changed. Raises `CheckpointError`, `UnsupportedModel`.
    """
    if out["model_type"] == "lfm2":
        _lfm2(out)
    elif out["model_type"] == "granitemoehybrid":
        _granite(out)


def _lfm2(out: dict[str, Any]) -> None:
    complete(out, _LFM2)
    # Older checkpoints' names, which transformers reads first.
    out["tie_word_embeddings"] = out.pop("tie_embedding", out.get("tie_word_embeddings", True))
    out["intermediate_size"] = out.pop("block_ff_dim", out.get("intermediate_size", 12_288))
    check_integers(out, "conv_L_cache", "intermediate_size", "block_multiple_of")
    layers, full = out.get("num_hidden_layers"), out.pop("full_attn_idxs", None)
    if out.get("layer_types") is None and isinstance(layers, int):
        attention = range(layers) if full is None else full
        out["layer_types"] = [FULL if i in attention else CONV for i in range(layers)]
    _name_kinds(out, {FULL: FULL, CONV: CONV})


def _granite(out: dict[str, Any]) -> None:
    if out.get("num_local_experts", 8):
        raise UnsupportedModel("granitemoehybrid with num_local_experts is a mixture of experts, which is not run")
    complete(out, _GRANITE)
    check_integers(
        out, "shared_intermediate_size", "mamba_n_heads", "mamba_n_groups", "mamba_d_state", "mamba_d_conv",
        "mamba_expand", "hidden_size",
    )  # fmt: skip
    if out.get("mamba_d_head") in (None, "auto"):
        out["mamba_d_head"] = out["mamba_expand"] * out["hidden_size"] // out["mamba_n_heads"]
    check_integers(out, "mamba_d_head")
    out["time_step_limit"] = _limits(out.get("time_step_limit"))
    if out.get("layer_types") is None:
        out["layer_types"] = out.pop("layers_block_type", None) or [MAMBA] * int(out.get("num_hidden_layers") or 0)
    _name_kinds(out, _GRANITE_KINDS)


def complete(out: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Give `out` what it does not say."""
    for key, value in defaults.items():
        if out.get(key) is None:
            out[key] = value


def _name_kinds(out: dict[str, Any], names: Mapping[str, str]) -> None:
    kinds = out.get("layer_types")
    if not isinstance(kinds, list):
        return  # config.py says so
    if unknown := {str(kind) for kind in kinds} - set(names):
        raise UnsupportedModel(f"config.json: unknown layer_types {sorted(unknown)}")
    out["layer_types"] = [names[kind] for kind in kinds]


def _limits(value: Any) -> list[float]:
    """Of a time step: [least, most], by transformers 5 with infinity as {"__float__": "Infinity"}."""
    pair = [0.0, _NO_LIMIT] if value is None else value
    if isinstance(pair, list | tuple) and len(pair) == 2:
        found = [_NO_LIMIT if one in (float("inf"), {"__float__": "Infinity"}) else one for one in pair]
        if all(isinstance(one, int | float) and not isinstance(one, bool) and one >= 0 for one in found):
            return [float(one) for one in found]
    raise CheckpointError(f"config.json: field 'time_step_limit' is {value!r}, want two numbers")


def check_integers(out: Mapping[str, Any], *keys: str) -> None:
    """Raise `CheckpointError` unless these are positive, and no larger than any model has them."""
    for key in keys:
        value = out.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 23:
            raise CheckpointError(f"config.json: field '{key}' is {value!r}, want a positive integer")
