"""Configs of families with recurrent layers: the same facts as transformers' own classes read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.models.config import normalise

BASE: dict[str, Any] = {
    "model_type": "lfm2",
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
}
OLD = {
    "block_dim": 64,
    "block_ff_dim": 96,
    "full_attn_idxs": [1, 3],
    "tie_embedding": True,
    "rope_theta": 5e5,
    "num_key_value_heads": 4,
    "conv_L_cache": 4,
    "torch_dtype": "bfloat16",
}
CASES: list[dict[str, Any]] = [
    {},
    OLD,
    {"intermediate_size": 128, "layer_types": ["conv", "full_attention", "conv", "conv"], "full_attn_idxs": [0]},
    {"intermediate_size": 128, "tie_word_embeddings": False, "conv_bias": True, "block_auto_adjust_ff_dim": False},
]


@pytest.mark.parametrize("extra", CASES)
def test_lfm2_as_transformers_reads_it(extra: dict[str, Any]) -> None:
    """Old and new spelling, and what is not said; also from what transformers 5 saves, and normalised twice."""
    transformers = pytest.importorskip("transformers")
    reference = transformers.Lfm2Config(**{k: v for k, v in {**BASE, **extra}.items() if k != "model_type"})
    ours = normalise({**BASE, **extra})
    names = ("num_key_value_heads", "max_position_embeddings", "norm_eps", "conv_bias", "conv_L_cache", "eos_token_id",
             "block_multiple_of", "block_ffn_dim_multiplier", "block_auto_adjust_ff_dim", "tie_word_embeddings",
             "intermediate_size", "layer_types", "bos_token_id")  # fmt: skip
    assert {name: ours[name] for name in names} == {name: getattr(reference, name) for name in names}
    assert ours["rope_theta"] == reference.rope_parameters["rope_theta"]
    saved = normalise(reference.to_dict())
    assert all(saved[name] == ours[name] for name in (*names, "rope_theta"))
    assert normalise(ours) == ours


GRANITE: dict[str, Any] = {**BASE, "model_type": "granitemoehybrid", "num_local_experts": 0, "mamba_n_heads": 8}
KINDS = ["mamba", "attention", "mamba", "mamba"]
GRANITES: list[dict[str, Any]] = [
    {"layer_types": KINDS, "shared_intermediate_size": 96, "position_embedding_type": "nope"},
    {"layers_block_type": KINDS, "num_key_value_heads": 2, "mamba_d_head": 16, "rope_theta": 5e5},
    {"layer_types": ["attention"] * 4, "tie_word_embeddings": True, "time_step_limit": [0.001, 10.0]},
]


@pytest.mark.parametrize("extra", GRANITES)
def test_granite_as_transformers_reads_it(extra: dict[str, Any]) -> None:
    """As above; the kinds of layers have one name each, and infinity is a number that JSON has."""
    transformers = pytest.importorskip("transformers")
    given = {k: v for k, v in {**GRANITE, **extra}.items() if k != "model_type"}
    reference = transformers.GraniteMoeHybridConfig(**given)
    ours = normalise({**GRANITE, **extra})
    names = ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "attention_bias",
             "shared_intermediate_size", "mamba_n_heads", "mamba_n_groups", "mamba_d_state", "mamba_d_head",
             "mamba_d_conv", "mamba_conv_bias", "mamba_proj_bias", "embedding_multiplier", "attention_multiplier",
             "position_embedding_type", "bos_token_id", "eos_token_id")  # fmt: skip
    assert {name: ours.get(name) for name in names} == {name: getattr(reference, name) for name in names}
    kinds = [kind.replace("attention", "full_attention") for kind in extra.get("layer_types", KINDS)]
    assert ours["layer_types"] == kinds
    assert ours["time_step_limit"] == extra.get("time_step_limit", [0.0, 3e38])
    saved = json.loads(reference.to_json_string(use_diff=False))
    again = normalise({**saved, "head_dim": None})
    assert all(again.get(name) == ours.get(name) for name in (*names, "layer_types", "time_step_limit", "rope_theta"))
    assert normalise(ours) == ours


@pytest.mark.parametrize(
    ("extra", "error", "words"),
    [
        ({"conv_L_cache": 0}, CheckpointError, "conv_L_cache"),
        ({"block_ff_dim": "many"}, CheckpointError, "intermediate_size"),
        ({"layer_types": ["conv"]}, CheckpointError, "layer_types"),
        ({"layer_types": ["conv", "mamba", "conv", "conv"]}, UnsupportedModel, "mamba"),
        ({**GRANITE, "num_local_experts": 4}, UnsupportedModel, "num_local_experts"),
        ({**GRANITE, "layer_types": ["mamba", "conv", "mamba", "mamba"]}, UnsupportedModel, "conv"),
        ({**GRANITE, "mamba_d_head": "odd"}, CheckpointError, "mamba_d_head"),
        ({**GRANITE, "time_step_limit": [0.0]}, CheckpointError, "time_step_limit"),
    ],
)
def test_what_cannot_be_is_named(extra: dict[str, Any], error: type[Exception], words: str) -> None:
    """The field is in the message."""
    with pytest.raises(error, match=words):
        normalise({**BASE, **extra})
