"""What a call needs and what a model can do. Pure; the sidecar's knowledge refines the shipped tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exo_node.routing.call import CallKind, Capability
from exo_node.routing.deployment import Deployment
from exo_node.routing.equivalents import Equivalents, maker, undated
from exo_node.routing.tables import ModelFacts, Tables

CHARACTERS_PER_TOKEN = 4  # English text in the common tokenizers; good enough to choose by
# What providers charge for a picture at usual sizes; they count tiles, we have not seen it.
_IMAGE_TOKENS = 800
_TEXT_FIELDS = ("prompt", "input", "query", "instructions")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What LiteLLM knows of a model (asked in the sidecar). None: it does not say.

    `can` is all that the model can do; where that is not known, `adds` and `lacks` correct what its provider's models
    usually can.
    """

    provider: str | None = None
    context: int | None = None
    can: frozenset[Capability] | None = None
    adds: frozenset[Capability] = frozenset()
    lacks: frozenset[Capability] = frozenset()


def needs_of(kind: CallKind, body: Mapping[str, Any]) -> frozenset[Capability]:
    """What a backend must be able to do for this body, without knowing any model."""
    if kind == "embedding":
        return frozenset({"embedding"})
    if kind == "rerank":
        return frozenset({"rerank"})
    needs: set[Capability] = set()
    if kind == "completion":  # there a number: 0 asks for the chosen tokens' alone
        said = body.get("logprobs")
        if said is not None and said is not False:
            needs.add("logprobs")
    if kind != "chat":
        return frozenset(needs)
    if (body.get("tools") or body.get("functions")) and body.get("tool_choice") != "none":
        needs.add("tools")
    form = body.get("response_format")
    if isinstance(form, Mapping) and form.get("type") == "json_schema":
        needs.add("json_schema")
    if body.get("logprobs") or body.get("top_logprobs"):
        needs.add("logprobs")
    modalities = body.get("modalities")
    if isinstance(modalities, list) and "audio" in modalities:
        needs.add("audio")
    for part in _parts(body):
        if part.get("type") in ("image_url", "input_image", "image"):
            needs.add("vision")
        elif part.get("type") == "input_audio":
            needs.add("audio")
    return frozenset(needs)


def estimate_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of the prompt, by its characters: messages, tools, prompts, inputs, documents; at least 1.

    A picture counts as one of usual size, not by the length of its base64.
    """
    characters = sum(_length(body.get(name)) for name in _TEXT_FIELDS)
    pictures = 0
    for message in body.get("messages") or ():
        if not isinstance(message, Mapping):
            continue
        characters += 16  # role and separators: about four tokens in every chat template
        for key, value in message.items():
            if key == "content" and isinstance(value, list):
                for part in value:
                    if isinstance(part, Mapping) and part.get("type") in ("image_url", "input_image", "image"):
                        pictures += 1
                    else:
                        characters += _length(part)
            elif key != "role":
                characters += _length(value)
    for name in ("tools", "functions", "documents", "response_format"):
        characters += _length(body.get(name))
    return max(1, -(-characters // CHARACTERS_PER_TOKEN) + pictures * _IMAGE_TOKENS)


def _length(value: Any) -> int:
    """Characters of all text inside; a list of numbers is a list of token ids."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(len(str(key)) + _length(inner) for key, inner in value.items() if key != "data")
    if isinstance(value, list):
        if value and all(isinstance(one, int) for one in value):
            return len(value) * CHARACTERS_PER_TOKEN
        return sum(_length(inner) for inner in value)
    return 0


def _parts(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for message in body.get("messages") or ():
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, Mapping))


class Facts:
    """What is known of "provider/model": the tables' rows, seen through hosts and dated names."""

    def __init__(self, tables: Tables, equivalents: Equivalents) -> None:
        self._tables = tables
        self._equivalents = equivalents

    def own(self, provider: str, model: str) -> ModelFacts | None:
        """The provider's own row."""
        low = model.lower()
        return self._tables.models.get(f"{provider}/{low}") or self._tables.models.get(f"{provider}/{undated(low)}")

    def makers(self, provider: str, model: str) -> ModelFacts | None:
        """The row of whoever made what the provider serves."""
        if (found := self.own(*maker(provider, model))) is not None:
            return found
        model_id = self._equivalents.id_of(provider, model)
        for host, name in self._equivalents.hosts(model_id)[:1]:
            if (found := self.own(host, name)) is not None:
                return found
        return None

    def find(self, provider: str, model: str) -> ModelFacts | None:
        return self.own(provider, model) or self.makers(provider, model)


def capabilities_of(
    deployment: Deployment, tables: Tables, facts: Facts, info: ModelInfo | None = None
) -> frozenset[Capability]:
    """Configured, else shipped, else what LiteLLM says, else what its provider's models usually can."""
    if deployment.capabilities is not None:
        return deployment.capabilities
    provider = tables.provider(deployment.provider)
    adds: frozenset[Capability] = frozenset() if provider is None else provider.adds
    row = facts.find(deployment.provider, deployment.upstream_model)
    can = row.can if row is not None else info.can if info is not None else None
    if can is None:
        can = frozenset() if provider is None else provider.can
        if info is not None:
            can = (can | info.adds) - info.lacks
    return can | adds if not can & {"embedding", "rerank"} or row is None else can


def context_of(deployment: Deployment, facts: Facts, info: ModelInfo | None = None) -> int | None:
    """Tokens; None where nobody says."""
    if deployment.context is not None:
        return deployment.context
    row = facts.find(deployment.provider, deployment.upstream_model)
    if row is not None and row.context is not None:
        return row.context
    return None if info is None else info.context
