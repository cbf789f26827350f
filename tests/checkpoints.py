"""Small random checkpoints of every family, and what transformers says of them (tests only).

`make_checkpoint` writes a model folder with transformers' own `save_pretrained`; `reference_logits` runs it in float32
with eager attention. Weights are drawn so that every part matters: no zero bias, no norm weight of exactly one, logits
of a few units. Windows are 12 tokens, so that any prompt longer than that shows a window that is not kept.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from exo_node.engine.base import TensorInfo, TensorSource
from exo_node.types import Shard

N_LAYERS = 7
HIDDEN = 64
VOCAB = 160
CONTEXT = 256
WINDOW = 12

_COMMON: Mapping[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 128,
    "short_factor": [1.0 + 0.05 * i for i in range(8)],
    "long_factor": [2.0 + 0.5 * i for i in range(8)],
}
# family -> (transformers' config class, its model class, what differs from _COMMON)
_FAMILIES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {"rope_parameters": _LLAMA3_ROPE}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {"sliding_window": WINDOW}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {"tie_word_embeddings": True, "sliding_window": WINDOW, "query_pre_attn_scalar": 24},
    ),
    "gemma3_text": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            "tie_word_embeddings": True,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 24,
            "layer_types": ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(N_LAYERS)],
        },
    ),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {"sliding_window": None}),
    "phi3_longrope": (
        "Phi3Config",
        "Phi3ForCausalLM",
        {"sliding_window": WINDOW, "rope_parameters": _LONGROPE, "original_max_position_embeddings": 128},
    ),
}
FAMILIES: tuple[str, ...] = tuple(_FAMILIES)  # every engine runs these
# Families that only the MLX engine runs.
_MORE: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", {}),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", {}),
    "glm4": ("Glm4Config", "Glm4ForCausalLM", {}),
    "granite": (
        "GraniteConfig",
        "GraniteForCausalLM",
        {
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.7,
            "attention_multiplier": 0.2,
        },
    ),
}
MORE_FAMILIES: tuple[str, ...] = tuple(_MORE)
# Families with layers of recurrent state beside attention: the MLX engine alone runs them, row by row.
_HYBRIDS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "lfm2": (
        "Lfm2Config",
        "Lfm2ForCausalLM",
        {
            "tie_word_embeddings": True,
            "block_auto_adjust_ff_dim": False,
            "layer_types": ["conv", "conv", "full_attention", "conv", "full_attention", "conv", "conv"],
        },
    ),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        "GraniteMoeHybridForCausalLM",
        {
            "layer_types": ["mamba", "mamba", "attention", "mamba", "attention", "mamba", "mamba"],
            "num_local_experts": 0,
            "shared_intermediate_size": 96,
            "mamba_n_heads": 8,
            "mamba_d_state": 16,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.7,
            "attention_multiplier": 0.2,
        },
    ),
}
HYBRIDS: tuple[str, ...] = tuple(_HYBRIDS)
# Families with a mixture of experts, beside layers without: the MLX engine alone runs them.
_EXPERTS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "qwen3_moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "mlp_only_layers": [3],
            "norm_topk_prob": True,
        },
    ),
}
EXPERTS: tuple[str, ...] = tuple(_EXPERTS)


def _torch() -> Any:
    """torch; where it is missing the test is skipped."""
    return pytest.importorskip("torch", reason="needs torch, of which there is no CPU build for this machine")


def make_checkpoint(family: str, root: Path, *, dtype: str = "float32", seed: int = 0, **overrides: Any) -> Path:
    """Write (once per `root`) a random checkpoint of `family` in `dtype` and return its folder.

    `overrides` are config fields (transformers' names). Same arguments, same bytes.
    """
    tail = "-".join(f"{k}={json.dumps(v)}" for k, v in sorted(overrides.items()))
    safe = "".join(c if c.isalnum() or c in "=-._" else "_" for c in tail)
    folder = root / f"{family}-{dtype}-{seed}{'-' + safe if safe else ''}"
    if (folder / "config.json").exists():
        return folder
    torch = _torch()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config_class, model_class, fields = {**_FAMILIES, **_MORE, **_HYBRIDS, **_EXPERTS}[family]
    config = getattr(transformers, config_class)(**{**_COMMON, **fields, **overrides})
    model = getattr(transformers, model_class)(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1 and "norm" in name:
            parameter.data = (0.0 if family.startswith("gemma") else 1.0) + 0.1 * noise
        elif parameter.dim() == 1:
            parameter.data = 0.1 * noise
        elif "embed_tokens" in name:
            parameter.data = 0.5 * noise
        else:
            parameter.data = noise * parameter.shape[-1] ** -0.5
    model.tie_weights()
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


@lru_cache(maxsize=8)
def _reference(path: Path) -> Any:
    torch = _torch()
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def reference_logits(path: Path, token_ids: list[int]) -> npt.NDArray[np.float32]:
    """Logits [len(token_ids), vocab] of the checkpoint at `path`, upcast to float32, by transformers (no cache)."""
    torch = _torch()

    with torch.no_grad():
        out = _reference(path)(torch.tensor([token_ids]), use_cache=False).logits[0]
    return np.asarray(out.float().numpy())


def reference_states(path: Path, token_ids: list[int]) -> npt.NDArray[np.float32]:
    """Final hidden states [len(token_ids), hidden_size], after the final norm, as `reference_logits`."""
    torch = _torch()

    with torch.no_grad():
        out = _reference(path).model(torch.tensor([token_ids]), use_cache=False).last_hidden_state[0]
    return np.asarray(out.float().numpy())


def plain_config(path: Path) -> dict[str, Any]:
    """The folder's config.json with transformers 5's `rope_parameters` spread as models/config.py does it."""
    config: dict[str, Any] = json.loads((path / "config.json").read_text())
    rope = config.pop("rope_parameters", None)
    if rope is None:
        return config
    if "full_attention" in rope:  # one set per layer type (gemma3)
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config["rope_theta"] = rope["rope_theta"]
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope["partial_rotary_factor"]
    scaling = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
    config["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    return config


class DirectorySource:
    """The plainest `TensorSource`: every `*.safetensors` of a folder, mapped."""

    def __init__(self, path: Path) -> None:
        self._entries: dict[str, tuple[mmap.mmap, int, TensorInfo]] = {}
        self.released: list[str] = []
        self.was_read: list[str] = []
        for file in sorted(path.glob("*.safetensors")):
            with file.open("rb") as handle:
                mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            size = int.from_bytes(mapped[:8], "little")
            for name, entry in json.loads(mapped[8 : 8 + size]).items():
                if name != "__metadata__":
                    start, end = entry["data_offsets"]
                    info = TensorInfo(entry["dtype"], tuple(entry["shape"]), end - start)
                    self._entries[name] = (mapped, 8 + size + start, info)

    def names(self) -> Collection[str]:
        return self._entries.keys()

    def info(self, name: str) -> TensorInfo:
        return self._entries[name][2]

    def read(self, name: str) -> memoryview:
        mapped, start, info = self._entries[name]
        self.was_read.append(name)
        return memoryview(mapped)[start : start + info.nbytes]

    def release(self, name: str) -> None:
        mapped, start, info = self._entries[name]
        page_start = start - start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, page_start, start + info.nbytes - page_start)
        self.released.append(name)


class ShardView:
    """Of `source`, exactly the tensors that a shard holds, as the ring hands them; anything else is a KeyError."""

    def __init__(self, source: TensorSource, config: Mapping[str, Any], shard: Shard, is_head: bool) -> None:
        self._source = source
        prefixes = [f"model.layers.{i}." for i in range(shard.start_layer, shard.end_layer)]
        if is_head:
            prefixes += ["model.embed_tokens.", "model.norm.", "model.embedding_norm."]
            if not config.get("tie_word_embeddings", False):
                prefixes.append("lm_head.")
        self._names = frozenset(n for n in source.names() if n.startswith(tuple(prefixes)))

    def names(self) -> Collection[str]:
        return self._names

    def info(self, name: str) -> TensorInfo:
        return self._source.info(self._mine(name))

    def read(self, name: str) -> memoryview:
        return self._source.read(self._mine(name))

    def release(self, name: str) -> None:
        self._source.release(self._mine(name))

    def _mine(self, name: str) -> str:
        if name not in self._names:
            raise KeyError(f"{name} is not of this shard")
        return name
