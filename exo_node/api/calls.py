"""A request's JSON body -> `Call`. Checks its shape only: what a field means is for the backend that gets it. Pure.

Out of the body come `exo` (the request's wishes for its routing) and `provider` where it is a name; OpenRouter's
`provider` object stays. What `extra_body` holds goes into the body, as OpenAI's SDK does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from exo_node.api.fields import bad, checked_object, checked_text, kind
from exo_node.api.schemas import openai as schemas
from exo_node.api.schemas.core import check
from exo_node.api.shapes import shape_of
from exo_node.api.tiers import priority_of
from exo_node.routing.call import Call, Caller, CallKind, FormFile, Wishes
from exo_node.types import Priority

PREFIX: Mapping[CallKind, str] = {
    "chat": "chatcmpl", "completion": "cmpl", "embedding": "embd", "rerank": "rerank", "image": "img",
    "speech": "speech", "transcription": "transcr", "moderation": "modr",
}  # fmt: skip
NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What of a request is not in its body. `deadline` is on `time.monotonic()`'s clock; `at_most`: the highest
    priority that it may have."""

    id: str
    deadline: float
    default_model: str | None = None
    key_id: str = ""
    no_cache: bool = False
    at_most: Priority = "normal"


def make_call(call_kind: CallKind, body: Mapping[str, Any], context: Context, files: tuple[FormFile, ...] = ()) -> Call:
    """Raises `InvalidRequest` with the field's name."""
    sent = _with_extra(body)
    wishes = _wishes(sent.pop("exo", None))
    if isinstance(sent.get("provider"), str):
        provider = checked_text(sent.pop("provider"), "provider")
        if wishes.provider is not None and wishes.provider != provider:
            raise bad("provider", f"says {provider[:40]!r} and exo.provider {wishes.provider[:40]!r}; send one of them")
        wishes = replace(wishes, provider=provider or None)
    elif "provider" in sent and sent["provider"] is not None and not isinstance(sent["provider"], dict):
        raise bad("provider", f"must be a provider's name, not {kind(sent['provider'])}", code="invalid_type")
    shape = shape_of(call_kind, sent)
    model = sent.get("model") or context.default_model
    if not model:
        raise bad("model", "is required", code="missing_required_parameter")
    sent["model"] = checked_text(model, "model")
    return Call(
        id=context.id,
        kind=call_kind,
        model=model,
        body=sent,
        stream=shape.stream,
        deadline=context.deadline,
        prompt_tokens=shape.prompt_tokens,
        max_tokens=shape.max_tokens,
        longest=shape.longest,
        answers=shape.answers,
        needs=shape.needs,
        wishes=replace(wishes, no_cache=True) if context.no_cache else wishes,
        caller=Caller(context.key_id, sent.get("user") or ""),
        files=files,
        priority=priority_of(sent.get("service_tier"), context.at_most),
    )


def guess_kind(body: Mapping[str, Any]) -> CallKind:
    """Which route a body was written for, by the field that only this one has. Raises `InvalidRequest`."""
    if body.get("messages") is not None:
        return "chat"
    if body.get("query") is not None:
        return "rerank"
    if body.get("prompt") is not None:
        return "completion"
    if body.get("input") is not None:
        return "embedding"
    raise bad("messages", "is required (or prompt, input, or query with documents)", code="missing_required_parameter")


def refuse_unknown(body: Mapping[str, Any], known: tuple[str, ...], within: str = "") -> None:
    """For bodies that go no further than this node: a key that does nothing is a mistake."""
    for name in body:
        if name not in known:
            raise bad(f"{within}{name}", f"is unknown here; known: {', '.join(known)}", code="unknown_parameter")


def _with_extra(body: Mapping[str, Any]) -> dict[str, Any]:
    sent = dict(body)
    extra = sent.pop("extra_body", None)
    if extra is None:
        return sent
    checked_object(extra, "extra_body")
    if "extra_body" in extra:  # it would be merged behind all checks, and could name another model
        raise bad("extra_body.extra_body", "is not taken: write its fields into extra_body")
    return {**sent, **extra}


def _wishes(value: Any) -> Wishes:
    if value is None:
        return NO_WISHES
    said = check(value, schemas.Wishes, "exo.")
    return Wishes(
        provider=said.provider,
        strategy=said.strategy,
        max_cost=said.max_cost,
        fallbacks=None if said.fallbacks is None else tuple(said.fallbacks),
        continuation=said.continuation,
        equivalents=said.equivalents,
        no_cache=said.no_cache or False,
        cache_ttl_s=said.cache_ttl,
        record=said.record,
    )
