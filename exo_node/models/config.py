"""One reading of `config.json` for every engine (ENGINES.md 1, "Config trap").

transformers 5 and 4 write the same facts under different names, leave out what equals their class's defaults, and wrap
text models in multimodal ones. `normalise` undoes all of that once, so that no engine ever guesses. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.models.expert_config import normalise_experts
from exo_node.models.hybrid_config import normalise_hybrid
from exo_node.models.quantization import normalise_quantization

FULL, SLIDING = "full_attention", "sliding_attention"

# What each architecture's own configuration class in transformers 5.23 assumes when config.json is silent. `None` for
# num_key_value_heads and head_dim means: derived (as many as the heads; hidden_size / heads).
_LLAMA: Mapping[str, Any] = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_QWEN2: Mapping[str, Any] = {
    "num_key_value_heads": 32,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "bos_token_id": None,
    "eos_token_id": None,
}
_GEMMA2: Mapping[str, Any] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "use_bidirectional_attention": None,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": _LLAMA,
    "mistral": {
        **{k: v for k, v in _LLAMA.items() if k not in ("attention_bias", "mlp_bias")},
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": _QWEN2,
    "qwen3": {**_QWEN2, "head_dim": 128, "attention_bias": False},
    "gemma2": _GEMMA2,
    # The text part of a wrapped gemma3 really comes without these: the class's defaults are part of the checkpoint.
    "gemma3_text": {
        **_GEMMA2,
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "max_position_embeddings": 131072,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "sliding_window_pattern": 6,
        "use_bidirectional_attention": False,
    },
    "phi3": {
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "sliding_window": None,
        "bos_token_id": 1,
        "eos_token_id": 32000,
    },
}
# No field of these classes: engines take hidden_size / num_attention_heads, so anything else would be run wrongly.
_NO_HEAD_DIM = ("qwen2", "phi3")

# Far above any real model; a corrupt file must not make a node allocate by it.
_LIMITS: Mapping[str, int] = {
    "vocab_size": 16_777_216,
    "hidden_size": 1_048_576,
    "intermediate_size": 8_388_608,
    "num_hidden_layers": 4096,
    "num_attention_heads": 65_536,
    "num_key_value_heads": 65_536,
    "head_dim": 65_536,
    "max_position_embeddings": 1 << 31,
}
# Lifted from a wrapper's top level when the text part does not say (transformers 5 reads these from the wrapper too).
_FROM_WRAPPER = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
    "torch_dtype",
    "dtype",
    "quantization",
    "quantization_config",
)


def normalise(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a new dict with one spelling of everything (idempotent; the input is left alone).

    Always set: `rope_theta`, `rope_scaling` (None for plain rope; else with both `type` and `rope_type`),
    `partial_rotary_factor`, `torch_dtype` (str or None), `head_dim`, `num_key_value_heads`, `layer_types` (one per
    layer), `sliding_window` (None if no layer slides), and for the families of `DEFAULTS` every default of
    transformers. gemma3 also gets `rope_local_base_freq`. Only of quantized weights: `quantization` (quantization.py).
    `rope_parameters`, `dtype` and `quantization_config` are gone.

    Raises `CheckpointError` for a missing or absurd field, `UnsupportedModel` for what this reading cannot express.
    """
    if not isinstance(config, Mapping):
        raise CheckpointError("config.json must hold a JSON object; fetch the model again")
    out = _lift_text(dict(config))
    model_type = out.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise CheckpointError("config.json: field 'model_type' is missing; fetch the model again")
    _apply_defaults(out, model_type)
    normalise_hybrid(out)
    normalise_experts(out)
    _check_sizes(out)
    _derive_heads(out, model_type)
    _normalise_dtype(out)
    normalise_quantization(out)
    _spell_experts(out)
    _normalise_layer_types(out, model_type)
    _normalise_rope(out, model_type)
    _check_numbers(out)
    return out


def _lift_text(config: dict[str, Any]) -> dict[str, Any]:
    text = config.get("text_config")
    if text is None:
        return config
    if not isinstance(text, Mapping):
        raise CheckpointError("config.json: field 'text_config' must be an object; fetch the model again")
    if config.get("model_type") != "gemma3":
        raise UnsupportedModel(
            f"model type {config.get('model_type')!r} wraps its text model in 'text_config'; only gemma3 is run so"
        )
    out = dict(text)
    for key in _FROM_WRAPPER:
        if key in config and key not in out:
            out[key] = config[key]
    out["model_type"] = "gemma3_text"
    out["architectures"] = ["Gemma3ForCausalLM"]
    return out


def _apply_defaults(out: dict[str, Any], model_type: str) -> None:
    for key, value in DEFAULTS.get(model_type, {}).items():
        if value is not None or key not in ("num_key_value_heads", "head_dim"):
            out.setdefault(key, value)
    if model_type in ("gemma2", "gemma3_text"):
        # These two read `hidden_activation` only; a `hidden_act` beside it is a leftover without effect.
        out["hidden_act"] = out["hidden_activation"]
        if out.get("use_bidirectional_attention"):
            raise UnsupportedModel("a gemma model with use_bidirectional_attention is an encoder; it cannot generate")


def _check_sizes(out: dict[str, Any]) -> None:
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        if out.get(key) is None:
            raise CheckpointError(f"config.json: field '{key}' is missing; fetch the model again")
    if out["model_type"] in DEFAULTS and out.get("intermediate_size") is None:
        raise CheckpointError("config.json: field 'intermediate_size' is missing; fetch the model again")
    for key, limit in _LIMITS.items():
        value = out.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            raise CheckpointError(f"config.json: field '{key}' is {value!r}, want an integer from 1 to {limit}")


def _derive_heads(out: dict[str, Any], model_type: str) -> None:
    heads, hidden = out["num_attention_heads"], out["hidden_size"]
    if out.get("num_key_value_heads") is None:
        out["num_key_value_heads"] = heads
    if heads % out["num_key_value_heads"]:
        raise CheckpointError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads "
            f"{out['num_key_value_heads']}"
        )
    if out.get("head_dim") is None:
        if hidden % heads:
            raise CheckpointError(f"config.json: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
        out["head_dim"] = hidden // heads
    elif model_type in _NO_HEAD_DIM and out["head_dim"] * heads != hidden:
        raise UnsupportedModel(f"a {model_type} model with a head_dim of its own ({out['head_dim']}) is not run")


def _normalise_dtype(out: dict[str, Any]) -> None:
    dtype = out.pop("dtype", None) or out.get("torch_dtype")
    if dtype is not None and not isinstance(dtype, str):
        raise CheckpointError(f"config.json: field 'torch_dtype' is {dtype!r}, want a name such as 'bfloat16'")
    out["torch_dtype"] = dtype.removeprefix("torch.") if dtype and dtype != "auto" else None


def _spell_experts(out: dict[str, Any]) -> None:
    # transformers 5 writes num_local_experts where mlx-lm reads num_experts; for mixtral it is the other way round.
    for one, other in (("num_local_experts", "num_experts"), ("num_experts", "num_local_experts")):
        if out.get(one) is not None:
            out.setdefault(other, out[one])


def _normalise_layer_types(out: dict[str, Any], model_type: str) -> None:
    n = out["num_hidden_layers"]
    given = out.get("layer_types")
    if given is not None and (
        not isinstance(given, list) or len(given) != n or not all(isinstance(kind, str) for kind in given)
    ):
        raise CheckpointError(f"config.json: field 'layer_types' must name the type of each of the {n} layers")
    derived = _derived_layer_types(out, model_type)
    if given is not None and derived is not None and model_type in ("mistral", "phi3", "llama") and given != derived:
        # transformers runs these three by `sliding_window` alone and ignores layer_types.
        raise UnsupportedModel(
            f"a {model_type} model with layer_types of its own is not run (layer_types, config.json)"
        )
    kinds = given if given is not None else derived
    if kinds is None:
        return
    if model_type in DEFAULTS and not set(kinds) <= {FULL, SLIDING}:
        raise UnsupportedModel(f"config.json: unknown layer_types {sorted(set(kinds) - {FULL, SLIDING})}")
    out["layer_types"] = list(kinds)
    if SLIDING not in kinds:
        if model_type in DEFAULTS:
            out["sliding_window"] = None
        return
    window = out.get("sliding_window")
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise CheckpointError(f"config.json: field 'sliding_window' is {window!r}, want a positive integer")


def _derived_layer_types(out: Mapping[str, Any], model_type: str) -> list[str] | None:
    n = out["num_hidden_layers"]
    window = out.get("sliding_window")
    if model_type == "llama":
        return [FULL] * n
    if model_type in ("mistral", "phi3"):
        return [FULL if window is None else SLIDING] * n
    if model_type in ("qwen2", "qwen3"):
        slides = bool(out["use_sliding_window"]) and window is not None
        return [SLIDING if slides and i >= out["max_window_layers"] else FULL for i in range(n)]
    if model_type == "gemma2":
        return [SLIDING if i % 2 == 0 else FULL for i in range(n)]
    if model_type == "gemma3_text":
        # transformers 5 saves the attribute, which has an underscore; both spellings are met.
        pattern = out.get("_sliding_window_pattern", out["sliding_window_pattern"])
        if isinstance(pattern, bool) or not isinstance(pattern, int) or pattern < 1:
            raise CheckpointError(
                f"config.json: field 'sliding_window_pattern' is {pattern!r}, want a positive integer"
            )
        return [SLIDING if (i + 1) % pattern else FULL for i in range(n)]
    return None


def _normalise_rope(out: dict[str, Any], model_type: str) -> None:
    parameters = out.pop("rope_parameters", None)
    scaling = out.get("rope_scaling")
    for name, value in (("rope_parameters", parameters), ("rope_scaling", scaling)):
        if value is not None and not isinstance(value, Mapping):
            raise CheckpointError(f"config.json: field '{name}' must be an object or null")
    if model_type == "gemma3_text":
        _gemma3_rope(out, parameters, scaling)
        return
    if parameters and any(isinstance(value, Mapping) for value in parameters.values()):
        raise UnsupportedModel(f"a {model_type} model with rope parameters per layer type is not run")
    rope = dict(scaling or parameters or {})
    theta, factor = rope.pop("rope_theta", None), rope.pop("partial_rotary_factor", None)
    out["rope_theta"] = theta if theta is not None else out.get("rope_theta", 10000.0)
    out["partial_rotary_factor"] = factor if factor is not None else out.get("partial_rotary_factor", 1.0)
    if model_type == "phi3" and rope.get("rope_type", rope.get("type")) in ("su", "yarn"):
        rope["rope_type"] = "longrope"
    out["rope_scaling"] = _scaling(rope, out)


def _gemma3_rope(out: dict[str, Any], parameters: Mapping[str, Any] | None, scaling: Mapping[str, Any] | None) -> None:
    parameters = parameters or {}
    if set(parameters) - {FULL, SLIDING}:
        raise UnsupportedModel("a gemma3 model whose rope_parameters are not given per layer type is not run")
    full = {**(parameters.get(FULL) or {}), **(scaling or {})}
    local = dict(parameters.get(SLIDING) or {})
    theta, local_theta = full.pop("rope_theta", None), local.pop("rope_theta", None)
    out["rope_theta"] = theta if theta is not None else out.get("rope_theta", 1_000_000.0)
    out["rope_local_base_freq"] = local_theta if local_theta is not None else out.get("rope_local_base_freq", 10000.0)
    out.setdefault("partial_rotary_factor", 1.0)
    out["rope_scaling"] = _scaling(full, out)
    if _scaling(local, out) is not None:
        raise UnsupportedModel("a gemma3 model with rope scaling on its sliding layers is not run")


def _scaling(rope: dict[str, Any], out: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    # mlx-lm's classes read one or the other name of the kind, so both are given.
    rope["type"] = rope["rope_type"] = kind
    if kind in ("llama3", "yarn", "longrope"):
        if out.get("original_max_position_embeddings") is not None:
            rope["original_max_position_embeddings"] = out["original_max_position_embeddings"]
        elif out.get("max_position_embeddings") is not None:
            rope.setdefault("original_max_position_embeddings", out["max_position_embeddings"])
    factor = rope.get("factor")
    if (kind in ("linear", "dynamic", "llama3", "yarn") or factor is not None) and not _positive(factor):
        raise CheckpointError(f"config.json: rope scaling '{kind}' has factor {factor!r}, want a positive number")
    return rope


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12


def _check_numbers(out: Mapping[str, Any]) -> None:
    for key in ("rms_norm_eps", "rope_theta", "rope_local_base_freq", "partial_rotary_factor", "query_pre_attn_scalar"):
        if out.get(key) is not None and not _positive(out[key]):
            raise CheckpointError(f"config.json: field '{key}' is {out[key]!r}, want a positive number")
    for key in ("final_logit_softcapping", "attn_logit_softcapping"):
        if out.get(key) is not None and not _positive(out[key]):
            raise CheckpointError(f"config.json: field '{key}' is {out[key]!r}, want a positive number or null")
    if out["partial_rotary_factor"] > 1:
        raise CheckpointError(f"config.json: partial_rotary_factor {out['partial_rotary_factor']} is more than 1")
    for key in ("hidden_act",):
        if out.get(key) is not None and not isinstance(out[key], str):
            raise CheckpointError(f"config.json: field '{key}' is {out[key]!r}, want a name such as 'silu'")
    if "tie_word_embeddings" in out and not isinstance(out["tie_word_embeddings"], bool):
        raise CheckpointError("config.json: field 'tie_word_embeddings' must be true or false")
