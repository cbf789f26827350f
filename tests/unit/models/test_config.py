"""normalise: the same facts as transformers' own configuration classes read from the same config.json."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.models.config import DEFAULTS, FULL, SLIDING, normalise

BASE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
CLASSES = {
    "llama": "LlamaConfig",
    "mistral": "MistralConfig",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "gemma2": "Gemma2Config",
    "gemma3_text": "Gemma3TextConfig",
    "phi3": "Phi3Config",
}
EXTRA: dict[str, list[dict[str, Any]]] = {
    "llama": [
        {},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
         "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ],
    "mistral": [{}, {"sliding_window": None}, {"sliding_window": 16, "head_dim": 32}],
    "qwen2": [{}, {"use_sliding_window": True, "max_window_layers": 3, "sliding_window": 8}],
    "qwen3": [{}, {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 8, "head_dim": 16}],
    "gemma2": [{}, {"sliding_window": 8, "hidden_act": "silu"}],
    "gemma3_text": [
        {},
        {"sliding_window_pattern": 3, "rope_theta": 1e5, "rope_local_base_freq": 5e3},
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ],
    "phi3": [
        {},
        {"sliding_window": 12, "original_max_position_embeddings": 16, "max_position_embeddings": 64,
         "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}},
    ],
}  # fmt: skip
CASES = [(family, extra) for family, extras in EXTRA.items() for extra in extras]


def theirs(family: str, raw: dict[str, Any]) -> Any:
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, CLASSES[family])(**{k: v for k, v in raw.items() if k != "model_type"})


@pytest.mark.parametrize(("family", "extra"), CASES)
def test_reads_what_transformers_reads(family: str, extra: dict[str, Any]) -> None:
    """Every field that shapes the arithmetic equals the attribute of transformers' own class."""
    raw = {**BASE, **extra, "model_type": family}
    reference = theirs(family, {k: (dict(v) if isinstance(v, dict) else v) for k, v in raw.items()})
    ours = normalise(raw)
    for key in DEFAULTS[family]:
        if key in ("head_dim", "sliding_window_pattern", "sliding_window", "hidden_activation"):
            continue
        assert ours[key] == getattr(reference, key), key
    assert ours["head_dim"] == getattr(reference, "head_dim", 8)
    if family in ("gemma2", "gemma3_text"):
        assert ours["hidden_act"] == reference.hidden_activation
    reference_types = getattr(reference, "layer_types", None)
    if reference_types is None:
        reference_types = [SLIDING if getattr(reference, "sliding_window", None) else FULL] * 7
    assert ours["layer_types"] == reference_types
    if SLIDING in reference_types:
        assert ours["sliding_window"] == reference.sliding_window
    else:
        assert ours.get("sliding_window") is None
    rope = reference.rope_parameters
    if family == "gemma3_text":
        assert ours["rope_local_base_freq"] == rope[SLIDING]["rope_theta"]
        rope = rope[FULL]
    assert ours["rope_theta"] == rope["rope_theta"]
    scaling = ours["rope_scaling"] or {"rope_type": "default"}
    for key, value in rope.items():
        if key == "partial_rotary_factor":
            assert ours[key] == value
        elif key not in ("rope_theta", "type"):
            assert scaling[key] == value


@pytest.mark.parametrize(("family", "extra"), CASES)
def test_same_from_what_transformers_5_saves(family: str, extra: dict[str, Any]) -> None:
    """The old spelling and what transformers 5 writes for it (rope_parameters, dtype) normalise to the same facts."""
    raw = {**BASE, **extra, "model_type": family, "torch_dtype": "float32"}
    saved = theirs(family, {k: (dict(v) if isinstance(v, dict) else v) for k, v in raw.items()}).to_dict()
    ours, again = normalise(raw), normalise(saved)
    for key in (*DEFAULTS[family], "rope_theta", "rope_local_base_freq", "layer_types", "head_dim", "torch_dtype"):
        if key not in ("sliding_window_pattern", "hidden_activation"):
            assert again.get(key) == ours.get(key), key
    for key, value in (ours["rope_scaling"] or {}).items():
        if key != "type":
            assert again["rope_scaling"][key] == value


@pytest.mark.parametrize(("family", "extra"), CASES)
def test_idempotent_and_leaves_its_input_alone(family: str, extra: dict[str, Any]) -> None:
    """Normalising twice changes nothing, and the caller's dict stays as it was."""
    raw = {**BASE, **extra, "model_type": family}
    before = repr(raw)
    once = normalise(raw)
    assert repr(raw) == before
    assert normalise(once) == once


def test_wrapped_gemma3_is_lifted() -> None:
    """The text part of a multimodal gemma3 with its silent defaults; the wrapper's token ids come along."""
    raw = {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "eos_token_id": [1, 106],
        "torch_dtype": "bfloat16",
        "vision_config": {"hidden_size": 4},
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                        "sliding_window": 1024},
    }  # fmt: skip
    ours = normalise(raw)
    assert (ours["model_type"], ours["num_attention_heads"], ours["head_dim"]) == ("gemma3_text", 8, 256)
    assert (ours["vocab_size"], ours["eos_token_id"], ours["torch_dtype"]) == (262208, [1, 106], "bfloat16")
    assert ours["rope_scaling"]["factor"] == 8.0
    assert "vision_config" not in ours
    assert ours["architectures"] == ["Gemma3ForCausalLM"]


def test_old_name_of_longrope() -> None:
    """Phi-3's first configs call longrope "su"; both names then say longrope, with the trained context beside it."""
    raw = {**BASE, "model_type": "phi3", "rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [2.0]}}
    scaling = normalise(raw)["rope_scaling"]
    assert scaling["type"] == scaling["rope_type"] == "longrope"
    assert scaling["original_max_position_embeddings"] == 4096


def test_experts_under_both_names() -> None:
    """num_local_experts and num_experts say the same, whichever was written."""
    assert normalise({**BASE, "model_type": "qwen3_moe", "num_local_experts": 16})["num_experts"] == 16
    assert normalise({**BASE, "model_type": "mixtral", "num_experts": 4})["num_local_experts"] == 4


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": None}, "model_type"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"intermediate_size": None}, "intermediate_size"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_attention_heads": 7, "num_key_value_heads": 7}, "num_attention_heads"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rope_theta": "x"}, "rope_theta"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"layer_types": [FULL]}, "layer_types"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"torch_dtype": 3}, "torch_dtype"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
    ],
)
def test_absurd_fields_are_named(change: dict[str, Any], word: str) -> None:
    """A missing or absurd field is a one-line CheckpointError that names it."""
    with pytest.raises(CheckpointError, match=word) as caught:
        normalise({**BASE, "model_type": "llama", **change})
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llava", "text_config": {}},
        {"model_type": "gemma3_text", "use_bidirectional_attention": True},
        {"model_type": "gemma3_text", "rope_parameters": {"rope_theta": 1.0}},
        {"model_type": "llama", "rope_parameters": {FULL: {"rope_theta": 1.0}}},
        {"model_type": "mistral", "layer_types": [FULL] * 7},
    ],
)
def test_what_cannot_be_expressed_is_refused(change: dict[str, Any]) -> None:
    """A config whose meaning would be lost is refused, never read approximately."""
    with pytest.raises(UnsupportedModel):
        normalise({**BASE, **change})
