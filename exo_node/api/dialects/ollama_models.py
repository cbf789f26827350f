"""Models as Ollama lists and shows them, and how its names find ours. Pure.

Shapes: https://docs.ollama.com/api/tags , .../api-reference/show-model-details , .../api/ps . A model of a provider has
`remote_model` and `remote_host` (the provider's name) as Ollama's own cloud models do; unknown details are empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from exo_node.api.dialects.ollama_answer import rfc3339
from exo_node.api.dialects.ollama_facts import Facts, digest_of
from exo_node.types import ModelCard

FOR_EVER_NS = 2**63 - 1  # from now: what Ollama adds for a model without an end
_QUANTIZATION = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_SEPARATORS = re.compile(r"[-_.:]")


def our_name(asked: str, known: Iterable[str]) -> str:
    """The name of ours that Ollama's means: itself, it without `:latest`, or `llama3.2:1b` for `llama-3.2-1b`.

    Unknown ones stay as they are, without `:latest`.
    """
    bare = asked.removesuffix(":latest")
    if ":" not in asked:
        return asked
    names = list(known)
    for one in (asked, bare):
        if one in names:
            return one
    same = sorted(name for name in names if _letters(name) == _letters(bare))
    return same[0] if same and ":" in bare else bare


def _letters(name: str) -> str:
    return _SEPARATORS.sub("", name).lower()


def tag(card: ModelCard, facts: Facts) -> dict[str, Any]:
    """A row of `/api/tags`."""
    named = {"name": card.id, "model": card.id, "modified_at": rfc3339(card.created * 1_000_000_000)}
    return {**named, "size": facts.size, "digest": facts.digest, "details": details(facts)}


def remote_tag(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `/api/tags` for a provider's model (`RoutingPort.models`)."""
    named = {"name": row["id"], "model": row["id"], "modified_at": rfc3339((row.get("created") or 0) * 1_000_000_000)}
    digest = digest_of(row["id"], row["owned_by"])
    return {**named, **_remote(row), "size": 0, "digest": digest, "details": details(Facts())}


def details(facts: Facts) -> dict[str, Any]:
    spec = facts.spec
    if spec is None:
        return {"parent_model": "", "format": "", "family": "", "families": [], "parameter_size": "",
                "quantization_level": ""}  # fmt: skip
    family, quantized = str(spec.config["model_type"]), spec.config.get("quantization")
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": _count(spec.n_params),
        "quantization_level": f"Q{quantized['bits']}" if quantized else _QUANTIZATION[spec.dtype],
    }


def show(card: ModelCard, facts: Facts) -> dict[str, Any]:
    """`/api/show` of a model of the cluster."""
    parameters = "\n".join(f"{name:<30} {value:g}" for name, value in sorted(facts.parameters.items()))
    said = [f"FROM {card.id}"]
    if facts.template:
        said.append(f'TEMPLATE """{facts.template}"""')
    said += [f"PARAMETER {name} {value:g}" for name, value in sorted(facts.parameters.items())]
    can = ["completion", "tools", "embedding", *(["thinking"] if facts.thinks else [])]  # what the ring does with any
    return {
        "modelfile": "\n".join(said) + "\n",
        "parameters": parameters,
        "template": facts.template,
        "details": details(facts),
        "model_info": _info(card, facts),
        "capabilities": can,
        "modified_at": rfc3339(card.created * 1_000_000_000),
    }


def remote_show(row: Mapping[str, Any]) -> dict[str, Any]:
    """`/api/show` of a provider's model. Clients look for the context under the "architecture": it is the provider."""
    owner, context = row["owned_by"], row.get("context_length")
    can = set(row.get("capabilities") or ())
    # Of a model that nobody knows everything is said: it may well chat.
    said = [] if can == {"embedding"} else ["completion"]
    capabilities = [*said, *(one for one in ("tools", "vision", "embedding") if one in can)]
    return {
        "modelfile": f"FROM {row['id']}\n",
        "parameters": "",
        "template": "",
        "details": details(Facts()),
        "model_info": {
            "general.architecture": owner,
            **({f"{owner}.context_length": context} if context else {}),
        },
        "capabilities": capabilities,
        "modified_at": rfc3339((row.get("created") or 0) * 1_000_000_000),
        **_remote(row),
    }


def running(
    instance: Mapping[str, Any],
    facts: Facts,
    stages: Sequence[Mapping[str, Any]],
    expires_ns: int,
) -> dict[str, Any]:
    """A row of `/api/ps`. `stages` is what the instance's runners report; `expires_ns` since 1970."""
    devices = [shard["device"] for shard in instance["shards"]]
    sizes = [(devices[one["stage"]], one["weight_bytes"] + one["kv_bytes"]) for one in stages]
    return {
        "name": instance["model"],
        "model": instance["model"],
        "size": sum(size for _, size in sizes),
        "size_vram": sum(size for device, size in sizes if not device.startswith("CPU")),
        "digest": facts.digest,
        "details": details(facts),
        "expires_at": rfc3339(expires_ns),
        "context_length": instance["context"],
    }


def _remote(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"remote_model": row["id"], "remote_host": row["owned_by"]}


def _info(card: ModelCard, facts: Facts) -> dict[str, Any]:
    spec = facts.spec
    if spec is None:
        context = {"exo.context_length": card.context_length} if card.context_length else {}
        return {"general.architecture": "exo", **context}
    config, family = spec.config, str(spec.config["model_type"])
    return {
        "general.architecture": family,
        "general.basename": card.id,
        "general.parameter_count": spec.n_params,
        f"{family}.context_length": spec.max_context,
        f"{family}.embedding_length": spec.hidden_size,
        f"{family}.block_count": spec.n_layers,
        f"{family}.attention.head_count": config["num_attention_heads"],
        f"{family}.attention.head_count_kv": config["num_key_value_heads"],
        f"{family}.vocab_size": spec.vocab_size,
    }


def _count(parameters: int) -> str:
    """1700000 -> "1.7M"."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= size:
            return f"{parameters / size:.1f}{unit}"
    return str(parameters)
