"""What the MLX engine refuses, and that the message names it. No framework is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exo_node.engine.mlx.support import check
from exo_node.errors import UnsupportedModel
from exo_node.types import Shard

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "head_dim": 16,
    "hidden_act": "silu",
    "rope_scaling": None,
}
LFM2 = {"model_type": "lfm2", "tie_word_embeddings": True, "layer_types": ["conv", "full_attention"] * 3}
GRANITE = {"model_type": "granitemoehybrid", "mamba_n_groups": 1, "layer_types": ["mamba", "full_attention"] * 3}
ALL = Shard("m", 0, 6, 6)


@pytest.mark.parametrize(
    ("fields", "names"),
    (
        ({"model_type": "mamba2"}, "'mamba2'"),
        ({"model_type": None}, "None"),
        ({"hidden_act": "relu"}, "'relu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias True"),
        ({"model_type": "qwen3_moe", "attention_bias": True}, "attention_bias True"),
        ({"model_type": "qwen3_moe", "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
        ({"model_type": "qwen2", "head_dim": 32}, "head_dim 32"),
        ({"model_type": "gemma2", "hidden_act": None, "attn_logit_softcapping": None}, "soft-capping"),
        ({"model_type": "gemma3_text", "hidden_act": None, "use_bidirectional_attention": True}, "bidirectional"),
        (
            {
                "model_type": "gemma3_text",
                "hidden_act": "gelu_pytorch_tanh",
                "layer_types": ["sliding_attention", "full_attention", "full_attention"] * 2,
            },
            "layer_types",
        ),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({**LFM2, "layer_types": ["conv"] * 6}, "without a layer of attention"),
        ({**LFM2, "tie_word_embeddings": False}, "tie_word_embeddings False"),
        ({**LFM2, "head_dim": 32}, "head_dim 32"),
        ({**GRANITE, "mamba_n_groups": 2}, "mamba_n_groups 2"),
        ({**GRANITE, "layer_types": ["mamba"] * 6}, "without a layer of attention"),
        ({**GRANITE, "num_local_experts": 4}, "num_local_experts 4"),
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers 2"),
    ),
)
def test_refused_by_name(fields: dict[str, Any], names: str) -> None:
    """An architecture, activation, rope or field that would be run wrongly is named in the refusal."""
    with pytest.raises(UnsupportedModel) as caught:
        check({**LLAMA, **fields}, ALL)
    assert names in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("shard", "names"),
    ((Shard("m", 0, 5, 5), "5 layers"), (Shard("m", 3, 3, 6), "at layer 3")),
)
def test_cuts_refused_by_name(shard: Shard, names: str) -> None:
    """A cut of another depth than the model's, or a follower without layers, is refused."""
    with pytest.raises(UnsupportedModel, match=names):
        check(LLAMA, shard)


def test_run_as_it_is() -> None:
    """A plain llama passes, whole, in part, and as a head without layers."""
    for shard in (ALL, Shard("m", 2, 4, 6), Shard("m", 0, 0, 6)):
        check(LLAMA, shard)


def test_checking_imports_no_framework() -> None:
    """A daemon may ask before a runner exists: neither MLX nor numpy comes in."""
    code = (
        "import sys; import exo_node.engine.mlx.support;"
        "print([m for m in ('mlx', 'mlx.core', 'mlx_lm', 'numpy') if m in sys.modules])"
    )
    root = Path(__file__).parents[4]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert out.stdout.strip() == "[]"
