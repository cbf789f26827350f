"""What the MLX engine knows of each family. Pure: no framework, no I/O.

mlx-lm's model files are used as they are. This table holds what they leave open or get wrong: which configurations a
file really implements, which layers have a window (masks are always ours), and the spelling of a config that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from exo_node.engine.mlx.hybrids import granite, lfm2
from exo_node.errors import UnsupportedModel

Config = Mapping[str, Any]
_PLAIN_ROPE = frozenset({"default", "linear"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One `model_type`.

    `module`: file in mlx_lm.models. `activations`: what the file computes whatever the config says. `ropes`: kinds of
    rope scaling that it computes as transformers does. `fixed`: config fields that it ignores and the only values under
    which ignoring them is right (a missing field is right too). `array_mask`: its attention wants a boolean array.
    `decode`: how one token each of several sequences runs (batch.py): "by_row" as one batch whose attention goes row by
    row, through mlx-lm's function for it; "padded" as one batch with padded keys, where the file computes attention
    itself; "singles" as "by_row", but rows of one token only, as recurrent layers want. `adapt`: config -> what the
    file is to read, given the context that the engine will hold.
    """

    module: str
    activations: frozenset[str] = frozenset({"silu"})
    ropes: frozenset[str] = _PLAIN_ROPE | {"llama3"}
    fixed: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    array_mask: bool = False
    decode: Literal["by_row", "padded", "singles"] = "by_row"
    adapt: Callable[[Config, int], dict[str, Any]] = lambda config, context: dict(config)


def _without_windows(config: Config, context: int) -> dict[str, Any]:
    # Masks are ours; mlx-lm's llama looks for a full-attention layer and fails where every layer slides.
    return {k: v for k, v in config.items() if k not in ("layer_types", "sliding_window")}


def _gemma3(config: Config, context: int) -> dict[str, Any]:
    """mlx-lm takes which layers are local (another rope base) from a period; transformers 5 lists the layers."""
    kinds = config.get("layer_types")
    n = config["num_hidden_layers"]
    if kinds is None:
        return dict(config)
    full = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
    period = full[0] + 1 if full else n + 1
    if full != list(range(period - 1, n, period)):
        raise UnsupportedModel("gemma3_text with layer_types that do not repeat evenly is not run by the mlx engine")
    return {**config, "sliding_window_pattern": period}


def _phi3(config: Config, context: int) -> dict[str, Any]:
    """mlx-lm always rotates by the long factors. transformers goes by the length of the sequence at hand, which no KV
    cache can follow; as vLLM does, the context that is held decides once for all."""
    scaling = config.get("rope_scaling")
    if not scaling:
        return dict(config)
    original = scaling.get("original_max_position_embeddings") or config.get("original_max_position_embeddings", 4096)
    which = "short_factor" if context <= original else "long_factor"
    return {
        **config,
        "original_max_position_embeddings": original,
        "rope_scaling": {**scaling, "type": "longrope", "long_factor": scaling[which]},
    }


_GELU = frozenset({"gelu_pytorch_tanh", "gelu_new"})
_NO_PARTIAL = ("partial_rotary_factor", (None, 1.0))

FAMILIES: Mapping[str, Family] = {
    "llama": Family(module="llama", fixed=(_NO_PARTIAL,), adapt=_without_windows),
    "mistral": Family(module="llama", fixed=(_NO_PARTIAL,), adapt=_without_windows),
    "qwen2": Family(module="qwen2", fixed=(_NO_PARTIAL,)),
    "qwen3": Family(module="qwen3", fixed=(_NO_PARTIAL, ("attention_bias", (None, False)))),
    "qwen3_moe": Family(
        module="qwen3_moe",
        ropes=frozenset({"default"}),
        fixed=(_NO_PARTIAL, ("attention_bias", (None, False))),
    ),
    "gemma2": Family(
        module="gemma2",
        activations=_GELU,
        ropes=frozenset({"default"}),
        fixed=(_NO_PARTIAL, ("attention_bias", (None, False)), ("tie_word_embeddings", (None, True))),
        array_mask=True,
        decode="padded",
    ),
    "gemma3_text": Family(
        module="gemma3_text",
        activations=_GELU,
        fixed=(
            _NO_PARTIAL,
            ("attention_bias", (None, False)),
            ("attn_logit_softcapping", (None,)),
            ("final_logit_softcapping", (None,)),
            ("use_bidirectional_attention", (None, False)),
        ),
        adapt=_gemma3,
    ),
    "phi3": Family(module="phi3", ropes=frozenset({"default", "longrope"}), adapt=_phi3),
    "olmo2": Family(module="olmo2", fixed=(_NO_PARTIAL,)),
    "smollm3": Family(module="smollm3", fixed=(_NO_PARTIAL,), adapt=_without_windows),
    "granite": Family(module="granite", fixed=(_NO_PARTIAL,)),
    "lfm2": Family(
        module="lfm2",
        ropes=frozenset({"default"}),
        fixed=(_NO_PARTIAL, ("tie_word_embeddings", (True,))),
        decode="singles",
        adapt=lfm2,
    ),
    "granitemoehybrid": Family(
        module="granitemoehybrid",
        ropes=frozenset({"default"}),
        # The file's norm does not go by groups.
        fixed=(_NO_PARTIAL, ("num_local_experts", (None, 0)), ("mamba_n_groups", (1,))),
        decode="singles",
        adapt=granite,
    ),
    "glm4": Family(module="glm4", ropes=frozenset({"default"}), fixed=(("tie_word_embeddings", (None, False)),)),
}


def layer_windows(config: Config) -> tuple[int | None, ...]:
    """For each layer how many of the latest keys (its own included) a query may see; None = all."""
    kinds = config.get("layer_types") or ["full_attention"] * config["num_hidden_layers"]
    window = config.get("sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def decode_mask_axes(config: Config) -> int | None:
    """Of how many axes the mask over a padded batch must be; None where the family wants none.

    gemma2's scores have [rows, heads, queries, keys], with the heads split in two where several share a key.
    """
    if FAMILIES[config["model_type"]].decode != "padded":
        return None
    heads = config["num_attention_heads"]
    return 4 if config.get("num_key_value_heads", heads) == heads else 5


def kv_elements(config: Config) -> int:
    """Elements of one token's keys and values in one layer."""
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return 2 * (config.get("num_key_value_heads") or heads) * head_dim


def embedding_correction(config: Config) -> float:
    """By what mlx-lm's scaled embedding must be multiplied above bfloat16.

    gemma3 scales its embedding by sqrt(hidden_size) rounded to the weights' dtype; mlx-lm rounds to bfloat16 always
    (34.0 for 33.94), which is right for bfloat16 only.
    """
    if config["model_type"] != "gemma3_text":
        return 1.0
    exact = float(config["hidden_size"]) ** 0.5
    return exact / _round_bf16(exact)


def _round_bf16(value: float) -> float:
    import struct

    bits = int.from_bytes(struct.pack("<f", value), "little")
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000  # to nearest, ties to even
    return float(struct.unpack("<f", bits.to_bytes(4, "little"))[0])
