"""config.json of the families with a mixture of experts (see config.py). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.models.hybrid_config import check_integers, complete

# What transformers 5.23 assumes of a Qwen3MoeConfig that is silent.
_QWEN3_MOE: Mapping[str, Any] = {
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "intermediate_size": 6144,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "use_sliding_window": False,
}
_WINDOW = 4096  # its default; null means none


def normalise_experts(out: dict[str, Any]) -> None:
    """Complete `out` with its family's defaults; of another family's config nothing is changed.

    Raises `CheckpointError`, `UnsupportedModel`.
    """
    if out["model_type"] != "qwen3_moe":
        return
    if out.get("num_experts") is None:  # transformers 5 saves it under the other name
        out["num_experts"] = out.get("num_local_experts")
    complete(out, _QWEN3_MOE)
    check_integers(out, "num_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step")
    if out["num_experts_per_tok"] > out["num_experts"]:
        raise CheckpointError(
            f"config.json: num_experts_per_tok {out['num_experts_per_tok']} of num_experts {out['num_experts']}"
        )
    dense = out["mlp_only_layers"]
    if not isinstance(dense, list) or not all(type(one) is int for one in dense):
        raise CheckpointError(f"config.json: field 'mlp_only_layers' is {dense!r}, want a list of layers")
    for key in ("norm_topk_prob", "use_sliding_window"):
        if not isinstance(out[key], bool):
            raise CheckpointError(f"config.json: field '{key}' must be true or false")
    _window(out)


def _window(out: dict[str, Any]) -> None:
    """All layers have it or none, whatever `layer_types` or `max_window_layers` say."""
    out["sliding_window"] = out.get("sliding_window", _WINDOW) if out["use_sliding_window"] else None
    layers = out.get("num_hidden_layers")
    if not isinstance(layers, int):
        return  # config.py says so
    kinds = ["full_attention" if out["sliding_window"] is None else "sliding_attention"] * layers
    if out.get("layer_types") not in (None, kinds):
        raise UnsupportedModel("a qwen3_moe model with layer_types of its own is not run (layer_types, config.json)")
    out["layer_types"] = kinds
