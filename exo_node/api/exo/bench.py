"""`/bench/chat/completions`: a chat on a loaded local model, with the times that it took.

As exo measures: end-of-text tokens are never drawn, so that an answer has `max_tokens` tokens; nothing is taken from a
cache of answers, and of earlier prompts only with `use_prefix_cache`. Rates are of this node's clock, from the
request's start in the adapter to the ring's tokens as they come.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from aiohttp import web

from exo_node.api import sse
from exo_node.api.fields import Fields, bad
from exo_node.api.operations import JSON, SSE, operation
from exo_node.api.ports import ClusterPort
from exo_node.api.schemas.exo_answers import BenchCompletion
from exo_node.api.schemas.openai import ChatRequest
from exo_node.api.serving import CallServer, read_object
from exo_node.errors import ExoError, ModelNotFound
from exo_node.routing.call import Call
from exo_node.routing.frames import events_in
from exo_node.types import Backend


class BenchRoutes:
    """Handlers over the adapter, which counts these calls as any other."""

    def __init__(self, serving: CallServer, backend: Backend, cluster: ClusterPort) -> None:
        self._serving = serving
        self._backend = backend
        self._cluster = cluster

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [("POST", "/bench/chat/completions", self.chat)]

    @operation("exo", scope="use", body=ChatRequest, answer=BenchCompletion, answers=(JSON, SSE), checked_later=True)
    async def chat(self, request: web.Request) -> web.StreamResponse:
        """OpenAI's chat with `generation_stats`; as the comment before `[DONE]` where it is streamed."""
        body = await read_object(request)
        call = self._serving.call(request, "chat", bench_body(body))
        call = replace(call, reuse_prompts=body.get("use_prefix_cache") is True)
        instance_id = await self._ready(call.model)
        if body.get("stream"):
            opening = sse.Opening()
            frames = self._frames(call, instance_id, opening, body)
            return await sse.respond(request, frames, self._serving.timeout_s, opening)
        watch = Watch(time.monotonic())
        text: list[str] = []
        finish: str | None = None
        async for event in self._events(call, sse.Opening()):
            watch.see(event)
            for choice in event["choices"]:
                text.append(choice["delta"].get("content") or "")
                finish = choice["finish_reason"] or finish
        head = watch.head
        answer = {
            "id": head["id"],
            "object": "chat.completion",
            "created": head["created"],
            "model": head["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "".join(text), "refusal": None},
                    "logprobs": None,
                    "finish_reason": finish,
                }
            ],
            "usage": dict(watch.usage),
            "generation_stats": watch.stats(await self._peak(instance_id)),
        }
        return web.json_response(answer)

    async def _frames(
        self, call: Call, instance_id: str, opening: sse.Opening, body: Mapping[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        watch = Watch(time.monotonic())
        wants_usage = (body.get("stream_options") or {}).get("include_usage")
        async for event in self._events(call, opening):
            watch.see(event)
            if event["choices"] or wants_usage:
                yield sse.frame(event)
        yield b": generation_stats " + orjson.dumps(watch.stats(await self._peak(instance_id))) + b"\n\n"

    async def _events(self, call: Call, opening: sse.Opening) -> AsyncGenerator[dict[str, Any], None]:
        reply = await self._serving.routing.serve(call)
        if reply.frames is None:
            raise ExoError("the answer to a streamed call is no stream")
        opening.headers = reply.headers
        async with aclosing(reply.frames) as frames:
            async for raw in frames:
                for event in events_in(raw):
                    yield event

    async def _ready(self, model: str) -> str:
        """The instance that will answer. Raises `ModelNotFound`: loading one would be measured too."""
        names = {model.lower()}
        for card in await self._backend.models():
            if model.lower() in (card.id.lower(), *(alias.lower() for alias in (*card.aliases, *card.copies))):
                names.add(card.id.lower())
        ready = [one for one in self._cluster.instances() if one["state"] == "ready" and one["model"].lower() in names]
        if ready:  # of several the one that the ring takes too (ring/registry.py)
            here = self._cluster.node_id
            return min((one["shards"][0]["node_id"] != here, str(one["id"])) for one in ready)[1]
        raise ModelNotFound(
            f"no instance of {model[:80]!r} is ready: place one first (POST /v1/instances)", param="model"
        )

    async def _peak(self, instance_id: str) -> int:
        """Bytes of the largest of its runners' processes."""
        stages: Sequence[Mapping[str, Any]] = await self._cluster.instance_stats(instance_id) or ()
        return max((int(stage.get("rss_bytes", 0)) for stage in stages), default=0)


def bench_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The chat that is served for a benchmark's. Raises `InvalidRequest`."""
    fields = Fields(body)
    fields.boolean("use_prefix_cache")
    if fields.boolean("logprobs") or fields.get("tools"):
        raise bad(
            "logprobs" if body.get("logprobs") else "tools",
            "is not measured by this route",
            code="unsupported_parameter",
        )
    if (fields.integer("n", 1) or 1) != 1:
        raise bad("n", "must be 1 in a benchmark")
    if body.get("exo") is not None:
        raise bad("exo", "is settled by this route: the local ring, no cache", code="unsupported_parameter")
    chat = {
        name: value for name, value in body.items() if name not in ("use_prefix_cache", "logprobs", "stream_options")
    }
    wishes = {"provider": "local", "no_cache": True, "continuation": "off", "fallbacks": [], "equivalents": "off"}
    return {**chat, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}, "exo": wishes}


@dataclass(slots=True)
class Watch:
    """Looks at a stream's events with a clock. `head` is the first of them."""

    started: float
    first: float | None = None  # content
    last: float | None = None
    head: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)

    def see(self, event: Mapping[str, Any]) -> None:
        self.head = self.head or event
        self.usage = event.get("usage") or self.usage
        if any(_has_text(choice["delta"]) or choice["finish_reason"] for choice in event["choices"]):
            self.last = time.monotonic()
            self.first = self.last if self.first is None else self.first

    def stats(self, peak: int) -> dict[str, Any]:
        """exo's `generation_stats`: tokens, rates in tokens a second (0 where there is nothing to divide)."""
        prompt, made = (int(self.usage.get(name, 0)) for name in ("prompt_tokens", "completion_tokens"))
        first_s = (self.first or self.started) - self.started
        rest_s = (self.last or self.started) - (self.first or self.started)
        return {
            "prompt_tokens": prompt,
            "generation_tokens": made,
            "prompt_tps": prompt / first_s if first_s > 0 else 0.0,
            "generation_tps": (made - 1) / rest_s if rest_s > 0 and made > 1 else 0.0,
            "peak_memory_usage": {"inBytes": peak},
        }


def _has_text(delta: Mapping[str, Any]) -> bool:
    return bool(delta.get("content") or delta.get("reasoning_content"))
