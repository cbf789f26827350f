"""Which tensors a model of our families has, and which part of the ring needs each. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Role = Literal["layer", "embed", "head", "unused"]

_LAYERS = "model.layers."
# Parts of multimodal wrappers and multi-token heads: no text model of ours reads them.
_UNUSED = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.",
           "vision_model.", "audio_tower.", "model.audio_tower.", "mtp.")  # fmt: skip


def role_of(name: str, *, tied: bool) -> tuple[Role, int]:
    """What the tensor of that canonical name is, and its layer (-1 outside the layers).

    Unused are other modalities, `rotary_emb.inv_freq` (a buffer that old checkpoints stored; recomputed from the
    config) and the LM head when it is tied to the embedding.
    """
    if name.endswith(".rotary_emb.inv_freq") or name.startswith(_UNUSED):
        return "unused", -1
    if name.startswith(_LAYERS):
        number = name[len(_LAYERS) :].partition(".")[0]
        return ("layer", int(number)) if number.isascii() and number.isdigit() else ("unused", -1)
    if name.startswith("model.embed_tokens."):
        return "embed", -1
    if tied and name.startswith("lm_head."):
        return "unused", -1
    return "head", -1


def outer_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of embedding, final norm and LM head of a family in `config.DEFAULTS` (normalised config)."""
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = (vocab, hidden)
    return out


def layer_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name within the layer -> shape, for a family in `config.DEFAULTS`; every layer of these families is alike."""
    family: str = config["model_type"]
    hidden, inner, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    out: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if family == "phi3":
        out["self_attn.qkv_proj.weight"] = (q + 2 * kv, hidden)
        out["mlp.gate_up_proj.weight"] = (2 * inner, hidden)
    else:
        out |= {f"self_attn.{one}_proj.weight": (n, hidden) for one, n in (("q", q), ("k", kv), ("v", kv))}
        out |= {f"mlp.{one}_proj.weight": (inner, hidden) for one in ("gate", "up")}
    out["self_attn.o_proj.weight"] = (hidden, q)
    out["mlp.down_proj.weight"] = (hidden, inner)
    if family in ("gemma2", "gemma3_text"):
        out |= {f"{one}_feedforward_layernorm.weight": (hidden,) for one in ("pre", "post")}
    if family in ("qwen3", "gemma3_text"):
        out |= {f"self_attn.{one}_norm.weight": (width,) for one in ("q", "k")}
    if family == "qwen2" or config.get("attention_bias"):
        out |= {f"self_attn.{one}_proj.bias": (n,) for one, n in (("q", q), ("k", kv), ("v", kv))}
    if config.get("attention_bias"):
        out["self_attn.o_proj.bias"] = (hidden,)
    if config.get("mlp_bias"):
        out |= {"mlp.gate_proj.bias": (inner,), "mlp.up_proj.bias": (inner,), "mlp.down_proj.bias": (hidden,)}
    return out
