"""Configs of families with a mixture of experts: the same facts as transformers' own class reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.models.config import normalise

BASE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
}
CASES: list[dict[str, Any]] = [
    {},
    {
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [1],
        "norm_topk_prob": True,
        "head_dim": 16,
        "num_key_value_heads": 2,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
    },
    {"mlp_only_layers": None, "use_sliding_window": False, "sliding_window": 7, "max_window_layers": 2},
    {"use_sliding_window": True},
    {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 2},
    {"use_sliding_window": True, "sliding_window": None},
]


@pytest.mark.parametrize("extra", CASES)
def test_qwen3_moe_as_transformers_reads_it(extra: dict[str, Any]) -> None:
    """What is said and what is not; also from what transformers 5 saves, and normalised twice."""
    transformers = pytest.importorskip("transformers")
    reference = transformers.Qwen3MoeConfig(**{k: v for k, v in {**BASE, **extra}.items() if k != "model_type"})
    ours = normalise({**BASE, **extra})
    names = ("num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
             "attention_bias", "intermediate_size", "decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size",
             "num_experts", "num_experts_per_tok", "norm_topk_prob", "sliding_window")  # fmt: skip
    assert {name: ours[name] for name in names} == {name: getattr(reference, name) for name in names}
    assert ours["rope_theta"] == reference.rope_parameters["rope_theta"]
    # Every layer has the window, whatever other Qwen models make of `max_window_layers`.
    kind = "full_attention" if reference.sliding_window is None else "sliding_attention"
    assert ours["layer_types"] == [kind] * 4
    saved = normalise(json.loads(reference.to_json_string(use_diff=False)))
    assert all(saved[name] == ours[name] for name in (*names, "rope_theta", "layer_types"))
    assert normalise(ours) == ours


@pytest.mark.parametrize(
    ("extra", "error", "words"),
    [
        ({"num_experts": 0}, CheckpointError, "num_experts"),
        ({"num_experts": 4, "num_experts_per_tok": 5}, CheckpointError, "num_experts_per_tok 5 of num_experts 4"),
        ({"decoder_sparse_step": 0}, CheckpointError, "decoder_sparse_step"),
        ({"moe_intermediate_size": "many"}, CheckpointError, "moe_intermediate_size"),
        ({"mlp_only_layers": [True]}, CheckpointError, "mlp_only_layers"),
        ({"mlp_only_layers": 1}, CheckpointError, "mlp_only_layers"),
        ({"norm_topk_prob": 1}, CheckpointError, "norm_topk_prob"),
        ({"use_sliding_window": True, "sliding_window": 0}, CheckpointError, "sliding_window"),
        ({"layer_types": ["sliding_attention"] * 4}, UnsupportedModel, "layer_types"),
    ],
)
def test_what_cannot_be_is_named(extra: dict[str, Any], error: type[Exception], words: str) -> None:
    """The field is in the message."""
    with pytest.raises(error, match=words):
        normalise({**BASE, **extra})
