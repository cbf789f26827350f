"""What a decoder computes, read off a normalised config.json. Pure data and pure functions; no framework, no numpy.

Every field that changes the numbers is read here, once, for all families; what is not understood is refused by name.
Defaults are those of transformers' configuration classes (5.23).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from exo_node.errors import CheckpointError, UnsupportedModel

Config = Mapping[str, Any]
Activation = Literal["silu", "gelu", "gelu_tanh"]

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary embedding of the first `dims` elements of each head, halves rotated against each other.

    `kind` and the fields below it follow transformers' `modeling_rope_utils`; `divisors` are longrope's per-frequency
    factors (short for sequences within `original_context`, long beyond), `amplitude` scales cosine and sine.
    """

    dims: int
    theta: float
    kind: Literal["default", "linear", "llama3", "longrope"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_context: int = 0
    short_divisors: tuple[float, ...] = ()
    long_divisors: tuple[float, ...] = ()
    amplitude: float | None = None  # None: longrope's own rule


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """`window`: how many tokens (itself included) a token sees; None = all. `rope`: index into `DecoderSpec.ropes`."""

    window: int | None
    rope: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """One decoder-only transformer: sizes, and which of the known parts it has."""

    architecture: str
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    max_context: int
    norm_eps: float
    norm_offset: float  # added to every norm weight (Gemma stores w - 1)
    qk_norm: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    packed: bool  # the files hold qkv_proj and gate_up_proj (Phi-3)
    post_norms: bool  # Gemma 2/3: a norm after attention and after the MLP too
    activation: Activation
    attention_scale: float
    attention_softcap: float | None
    logit_softcap: float | None
    embedding_scale: float
    tied: bool
    ropes: tuple[RopeSpec, ...]
    layers: tuple[LayerSpec, ...]


@dataclass(frozen=True, slots=True)
class _Family:
    """What `model_type` alone decides. `defaults` are config fields that transformers fills in for this family."""

    architecture: str
    defaults: Mapping[str, Any]
    windowed: Callable[[Config, int], bool]  # (config, layer) -> sliding window there, when `layer_types` is absent
    flags: Mapping[str, Any]


def decoder_spec(config: Config) -> DecoderSpec:
    """The decoder that a normalised config describes.

    Raises `UnsupportedModel` naming the architecture or field that is not run, `CheckpointError` when a
    field is missing or contradictory.
    """
    family = _family(config)
    config = {**family.defaults, **config}
    name = str(config["model_type"])
    if config.get("use_bidirectional_attention"):
        raise UnsupportedModel(f"tinygrad: {name} with use_bidirectional_attention is not run")
    n_layers, hidden = _size(config, "num_hidden_layers"), _size(config, "hidden_size")
    n_heads = _size(config, "num_attention_heads")
    n_kv_heads = n_heads if config.get("num_key_value_heads") is None else _size(config, "num_key_value_heads")
    head_dim = hidden // n_heads if config.get("head_dim") is None else _size(config, "head_dim")
    if n_heads % n_kv_heads:
        raise CheckpointError(f"config.json: {n_heads} attention heads are no multiple of {n_kv_heads} key/value heads")
    activation = str(
        config.get("hidden_activation") or family.defaults.get("hidden_activation") or config["hidden_act"]
    )
    if activation not in _ACTIVATIONS:
        raise UnsupportedModel(f"tinygrad: activation {activation!r} of {name} is not run")
    flags = {key: value(config) if callable(value) else value for key, value in {**_PLAIN, **family.flags}.items()}
    ropes: tuple[RopeSpec, ...] = (_rope(config, name, head_dim),)
    if name == "gemma3_text":
        ropes = (*ropes, RopeSpec(dims=head_dim, theta=float(config["rope_local_base_freq"])))
    return DecoderSpec(
        architecture=family.architecture,
        hidden_size=hidden,
        intermediate_size=_size(config, "intermediate_size"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab_size=_size(config, "vocab_size"),
        max_context=_size(config, "max_position_embeddings"),
        norm_eps=float(config["rms_norm_eps"]),
        activation=_ACTIVATIONS[activation],
        attention_scale=float(config.get("query_pre_attn_scalar", head_dim)) ** -0.5,
        attention_softcap=_optional(config, "attn_logit_softcapping"),
        logit_softcap=_optional(config, "final_logit_softcapping"),
        embedding_scale=hidden**0.5 if name.startswith("gemma") else 1.0,
        tied=bool(config["tie_word_embeddings"]),
        ropes=ropes,
        layers=_layers(config, family, n_layers, local_rope=len(ropes) - 1),
        **flags,
    )


def _family(config: Config) -> _Family:
    name = str(config.get("model_type") or "")
    declared = config.get("architectures") or [""]
    family = _FAMILIES.get(name)
    if family is None:
        known = ", ".join(sorted(_FAMILIES))
        asked = declared[0] or name or "(none named)"
        raise UnsupportedModel(f"tinygrad: architecture {asked} is not run; it runs model types {known}")
    if declared[0] and declared[0] != family.architecture:
        raise UnsupportedModel(
            f"tinygrad: architecture {declared[0]} is not run; of {name} it runs {family.architecture}"
        )
    return family


def _layers(config: Config, family: _Family, n_layers: int, *, local_rope: int) -> tuple[LayerSpec, ...]:
    window = config.get("sliding_window")
    if config.get("use_sliding_window") is False:
        window = None
    types = config.get("layer_types")
    if types is None:
        types = ["sliding_attention" if family.windowed(config, i) else "full_attention" for i in range(n_layers)]
    if len(types) < n_layers:
        raise CheckpointError(f"config.json: layer_types has {len(types)} entries for {n_layers} layers")
    layers = []
    for kind in types[:n_layers]:
        if kind not in ("sliding_attention", "full_attention"):
            raise UnsupportedModel(f"tinygrad: layer type {kind!r} is not run")
        sliding = kind == "sliding_attention"
        if sliding and window is None and local_rope:
            raise CheckpointError("config.json: layer_types names sliding_attention but sliding_window is missing")
        layers.append(LayerSpec(int(window) if sliding and window is not None else None, local_rope if sliding else 0))
    return tuple(layers)


def _rope(config: Config, name: str, head_dim: int) -> RopeSpec:
    dims = int(head_dim * float(config.get("partial_rotary_factor") or 1.0))
    theta = float(config["rope_theta"])
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "su":  # longrope's name in the first Phi-3 releases
        kind = "longrope"
    try:
        if kind == "default":
            return RopeSpec(dims=dims, theta=theta)
        if kind == "linear":
            return RopeSpec(dims=dims, theta=theta, kind="linear", factor=float(scaling["factor"]))
        if kind == "llama3":
            return RopeSpec(
                dims=dims,
                theta=theta,
                kind="llama3",
                factor=float(scaling["factor"]),
                low_freq_factor=float(scaling["low_freq_factor"]),
                high_freq_factor=float(scaling["high_freq_factor"]),
                original_context=int(scaling["original_max_position_embeddings"]),
            )
        if kind == "longrope":
            return _longrope(config, scaling, dims, theta)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json: rope_scaling of type {kind!r} is incomplete: {error}") from error
    raise UnsupportedModel(f"tinygrad: rope scaling {kind!r} of {name} is not run")


def _longrope(config: Config, scaling: Config, dims: int, theta: float) -> RopeSpec:
    context = _size(config, "max_position_embeddings")
    original = int(
        scaling.get("original_max_position_embeddings") or config.get("original_max_position_embeddings") or context
    )
    short, long = (tuple(float(x) for x in scaling[key]) for key in ("short_factor", "long_factor"))
    if len(short) != dims // 2 or len(long) != dims // 2:
        raise ValueError(f"short_factor and long_factor need {dims // 2} entries, have {len(short)} and {len(long)}")
    amplitude = scaling.get("attention_factor")
    return RopeSpec(
        dims=dims,
        theta=theta,
        kind="longrope",
        factor=float(scaling.get("factor") or context / original),
        original_context=original,
        short_divisors=short,
        long_divisors=long,
        amplitude=None if amplitude is None else float(amplitude),
    )


def _size(config: Config, field: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise CheckpointError(f"config.json: {field} must be a positive integer, is {value!r}")
    return value


def _optional(config: Config, field: str) -> float | None:
    value = config.get(field)
    return None if value is None else float(value)


_PLAIN: Mapping[str, Any] = {
    "norm_offset": 0.0,
    "qk_norm": False,
    "qkv_bias": lambda c: bool(c.get("attention_bias", False)),
    "out_bias": lambda c: bool(c.get("attention_bias", False)),
    "mlp_bias": lambda c: bool(c.get("mlp_bias", False)),
    "packed": False,
    "post_norms": False,
}
_BASE: Mapping[str, Any] = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
_GEMMA: Mapping[str, Any] = {
    **_BASE,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "head_dim": 256,
}


def _everywhere(config: Config, layer: int) -> bool:
    return config.get("sliding_window") is not None


def _nowhere(config: Config, layer: int) -> bool:
    return False


def _qwen(config: Config, layer: int) -> bool:
    return bool(config.get("use_sliding_window")) and layer >= int(config.get("max_window_layers", 28))


_QWEN: Mapping[str, Any] = {**_BASE, "sliding_window": 4096, "use_sliding_window": False}
_FAMILIES: Mapping[str, _Family] = {
    "llama": _Family("LlamaForCausalLM", _BASE, _nowhere, {}),
    "mistral": _Family(
        "MistralForCausalLM", _BASE, _everywhere, {"qkv_bias": False, "out_bias": False, "mlp_bias": False}
    ),
    "qwen2": _Family("Qwen2ForCausalLM", _QWEN, _qwen, {"qkv_bias": True, "out_bias": False, "mlp_bias": False}),
    "qwen3": _Family("Qwen3ForCausalLM", {**_QWEN, "head_dim": 128}, _qwen, {"qk_norm": True, "mlp_bias": False}),
    "gemma2": _Family(
        "Gemma2ForCausalLM",
        {**_GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        lambda _, layer: layer % 2 == 0,
        {"norm_offset": 1.0, "post_norms": True, "mlp_bias": False},
    ),
    "gemma3_text": _Family(
        "Gemma3ForCausalLM",
        {**_GEMMA, "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0},
        lambda config, layer: bool((layer + 1) % int(config.get("sliding_window_pattern", 6))),
        {"norm_offset": 1.0, "post_norms": True, "qk_norm": True, "mlp_bias": False},
    ),
    "phi3": _Family(
        "Phi3ForCausalLM",
        {**_BASE, "rms_norm_eps": 1e-5},
        _everywhere,
        {"packed": True, "qkv_bias": False, "out_bias": False, "mlp_bias": False},
    ),
}
