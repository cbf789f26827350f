from __future__ import annotations

from typing import Any

import pytest

from exo_node.engine.tinygrad.spec import LayerSpec, decoder_spec
from exo_node.errors import CheckpointError, UnsupportedModel

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}


def _config(model_type: str, architecture: str, **fields: Any) -> dict[str, Any]:
    return {**LLAMA, "model_type": model_type, "architectures": [architecture], **fields}


def test_what_is_left_out_is_transformers_default() -> None:
    """Head size and key/value heads follow from the others; epsilon, theta and tying have transformers' defaults."""
    spec = decoder_spec(LLAMA)
    assert (
        spec.head_dim,
        spec.n_kv_heads,
        spec.norm_eps,
        spec.ropes[0].theta,
        spec.tied,
    ) == (16, 4, 1e-6, 10000.0, False)
    assert decoder_spec({**LLAMA, "head_dim": None, "num_key_value_heads": None}) == spec


def test_windows() -> None:
    """Which layers slide: all of Mistral, half of Gemma 2, five of six of Gemma 3, Qwen's only when switched on."""
    mistral = decoder_spec(_config("mistral", "MistralForCausalLM", sliding_window=8))
    assert (LayerSpec(8, 0),) * 4 == mistral.layers
    assert (LayerSpec(None, 0),) * 4 == decoder_spec(_config("mistral", "MistralForCausalLM")).layers
    gemma2 = decoder_spec(_config("gemma2", "Gemma2ForCausalLM", sliding_window=8))
    assert [layer.window for layer in gemma2.layers] == [8, None, 8, None]
    gemma3 = decoder_spec(_config("gemma3_text", "Gemma3ForCausalLM", num_hidden_layers=7))
    assert [layer.rope for layer in gemma3.layers] == [1, 1, 1, 1, 1, 0, 1]
    assert tuple(rope.theta for rope in gemma3.ropes) == (1_000_000.0, 10_000.0)
    qwen = {"sliding_window": 8, "max_window_layers": 2}
    assert (LayerSpec(None, 0),) * 4 == decoder_spec(_config("qwen2", "Qwen2ForCausalLM", **qwen)).layers
    on = decoder_spec(_config("qwen2", "Qwen2ForCausalLM", use_sliding_window=True, **qwen))
    assert [layer.window for layer in on.layers] == [None, None, 8, 8]


def test_layer_types_decide_when_present() -> None:
    """`layer_types` overrules the family's pattern."""
    types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    spec = decoder_spec(_config("mistral", "MistralForCausalLM", sliding_window=8, layer_types=types))
    assert [layer.window for layer in spec.layers] == [None, 8, None, 8]


def test_explicit_null_switches_a_cap_off() -> None:
    """Gemma 2 without soft caps is a config that says null, not the default."""
    capped = decoder_spec(_config("gemma2", "Gemma2ForCausalLM"))
    assert (capped.attention_softcap, capped.logit_softcap) == (50.0, 30.0)
    plain = _config("gemma2", "Gemma2ForCausalLM", attn_logit_softcapping=None, final_logit_softcapping=None)
    assert (decoder_spec(plain).attention_softcap, decoder_spec(plain).logit_softcap) == (None, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"]}, "Lfm2ForCausalLM"),
        ({"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}, "Qwen3MoeForCausalLM"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"model_type": None, "architectures": None}, "none named"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"hidden_act": "relu2"}, "relu2"),
        ({"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ],
)
def test_refused_by_name(changes: dict[str, Any], words: str) -> None:
    """What is not run is named: architecture, task, rope scaling, activation, layer type."""
    with pytest.raises(UnsupportedModel, match=words):
        decoder_spec({**LLAMA, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            "need 8 entries",
        ),
    ],
)
def test_contradictions(changes: dict[str, Any], words: str) -> None:
    """A config that cannot be meant names its field."""
    with pytest.raises(CheckpointError, match=words):
        decoder_spec({**LLAMA, **changes})
