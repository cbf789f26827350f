"""The table of families: windows, sizes and config spellings."""

from __future__ import annotations

import pytest

from exo_node.engine.mlx.families import FAMILIES, embedding_correction, kv_elements, layer_windows


def test_windows_follow_the_layer_types() -> None:
    """Only sliding layers have the window; without layer_types none has."""
    config = {"num_hidden_layers": 2, "sliding_window": 8}
    assert layer_windows({**config, "layer_types": ["sliding_attention", "full_attention"]}) == (8, None)
    assert layer_windows(config) == (None, None)


def test_kv_elements_counts_keys_and_values() -> None:
    """2 x kv heads x head size, with the defaults of a plain multi-head model."""
    config = {"num_attention_heads": 4, "hidden_size": 64}
    assert kv_elements(config) == 128
    assert kv_elements({**config, "num_key_value_heads": 2, "head_dim": 32}) == 128


def test_gemma3_scale_is_corrected_from_bfloat16() -> None:
    """mlx-lm scales by 34.0 where sqrt(1152) is 33.94; a square needs nothing, nor does another family."""
    assert embedding_correction({"model_type": "gemma3_text", "hidden_size": 1152}) * 34.0 == pytest.approx(1152**0.5)
    assert embedding_correction({"model_type": "gemma3_text", "hidden_size": 1024}) == 1.0
    assert embedding_correction({"model_type": "llama", "hidden_size": 1152}) == 1.0


def test_longrope_factors_go_by_the_context_held() -> None:
    """Up to the original context the short factors, beyond it the long ones."""
    scaling = {"rope_type": "longrope", "short_factor": [1], "long_factor": [2], "original_max_position_embeddings": 9}
    adapt = FAMILIES["phi3"].adapt
    assert adapt({"rope_scaling": scaling}, 9)["rope_scaling"]["long_factor"] == [1]
    assert adapt({"rope_scaling": scaling}, 10)["rope_scaling"]["long_factor"] == [2]


def test_gemma3_period_comes_from_the_layer_types() -> None:
    """Which layers are local is a period to mlx-lm; a model without a global layer gets one past its end."""
    adapt = FAMILIES["gemma3_text"].adapt
    kinds = ["sliding_attention", "full_attention"] * 2
    assert adapt({"num_hidden_layers": 4, "layer_types": kinds}, 1)["sliding_window_pattern"] == 2
    assert adapt({"num_hidden_layers": 2, "layer_types": kinds[:1] * 2}, 1)["sliding_window_pattern"] == 3
