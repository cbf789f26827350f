"""Backends that do as they are told, and an adapter over them, for tests of the adapter and its parts."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from exo_node.routing.adapter.adapter import LiteLLMAdapter
from exo_node.routing.adapter.parts import Options, Parts
from exo_node.routing.adapter.ports import Gate, OpenGate
from exo_node.routing.call import Attempt, Batch, Call, CallRecord, Reply, Upstream, UpstreamError, Whole
from exo_node.routing.deployment import Price
from exo_node.routing.frames import frame
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.health.retry_budget import RetryBudget
from exo_node.routing.plan import Ask, BreakerView, Candidate, ProfileView, RoutePlan, Step

# Text, an event, a failure, an event to wait for (for ever, if nobody sets it).
Item = str | dict[str, Any] | Exception | asyncio.Event
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


def text(content: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]}


@dataclass
class Scripted:
    """Answers its n-th request with the n-th script (the last one for all after it)."""

    name: str
    scripts: list[Sequence[Item]]
    attempts: list[Attempt] = field(default_factory=list)
    closed: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]:
        self.attempts.append(attempt)
        self.asked.set()
        script = self.scripts[min(len(self.attempts), len(self.scripts)) - 1]
        head = {"id": f"id-{self.name}", "object": "chat.completion.chunk", "created": 1, "model": self.name}
        try:
            for item in script:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, asyncio.Event):
                    await item.wait()
                    continue
                await asyncio.sleep(0)
                event = {**head, **(text(item) if isinstance(item, str) else item)}
                yield Batch(frame(event), [event])
        finally:
            self.closed += 1

    async def whole(self, attempt: Attempt) -> Whole:
        parts: list[str] = []
        used: dict[str, Any] = {}
        async for batch in self.stream(attempt):
            for event in batch.events:
                parts += [choice["delta"].get("content") or "" for choice in event["choices"]]
                used = event.get("usage") or used
        message = {"role": "assistant", "content": "".join(parts)}
        data = {
            "id": "w", "object": "chat.completion", "created": 1, "model": self.name, "usage": used or None,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        }  # fmt: skip
        return Whole(json.dumps(data).encode(), data)


def candidate(backend: str, **fields: Any) -> Candidate:
    values: dict[str, Any] = {
        "kind": "ring" if backend.startswith("ring:") else "deployment",
        "provider": "exo" if backend.startswith("ring:") else "openai",
        "model": backend.rpartition(":")[2],
        "capabilities": frozenset({"prefill"}),
        "price": None if backend.startswith("ring:") else Price(1.0, 2.0),
    }
    return Candidate(backend=backend, **{**values, **fields})


@dataclass
class World:
    """An adapter over scripted backends, tried in the order in which they are given."""

    backends: dict[str, Scripted]
    listed: list[Candidate]
    options: Options = field(default_factory=Options)
    gate: Gate = field(default_factory=OpenGate)
    cascade: bool = False
    hedge_after_s: float | None = None
    records: list[CallRecord] = field(default_factory=list)
    profile: Profile = field(default_factory=Profile)
    breaker: Breaker = field(default_factory=Breaker)
    check: Any = None

    def __post_init__(self) -> None:
        parts = Parts(
            sources=self, choose=self.choose, profile=self.profile, breaker=self.breaker, retries=RetryBudget(),
            gate=self.gate, sinks=(self.records.append,), check=self.check, rng=random.Random(1),
        )  # fmt: skip
        self.adapter = LiteLLMAdapter(parts, self.options)

    async def candidates(self, call: Call) -> list[Candidate]:
        return self.listed

    def upstream(self, candidate: Candidate) -> Upstream:
        return self.backends[candidate.backend]

    def choose(
        self,
        candidates: Sequence[Candidate],
        ask: Ask,
        profile: ProfileView,
        breaker: BreakerView,
        now: float,
        rng: random.Random,
    ) -> RoutePlan:
        steps = tuple(
            Step(candidate=one, ttft_s=0.01, total_s=0.1, cost=one.price.cost(10, 10) if one.price else 0.0,
                 reason="its turn", hedge_after_s=self.hedge_after_s)
            for one in candidates
            if not one.rejected and one.room and not ask.needs - one.capabilities
        )  # fmt: skip
        rejected = {one.backend: one.rejected or "it cannot" for one in candidates if one.rejected or ask.needs}
        return RoutePlan(strategy="priority", steps=steps, rejected=rejected, reason="in order", cascade=self.cascade)


def call(stream: bool = True, deadline_s: float = 20.0, **fields: Any) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream, **fields.pop("body", {})}
    values: dict[str, Any] = {"id": "call-1", "kind": "chat", "model": "m", "prompt_tokens": 10}
    values |= {"body": body, "stream": stream, "deadline": time.monotonic() + deadline_s}
    return Call(**{**values, **fields})


def world(*backends: tuple[str | Candidate, *tuple[Sequence[Item], ...]], **fields: Any) -> World:
    """Of (name or candidate, script for the first request, for the second, ...) each."""
    listed = [one[0] if isinstance(one[0], Candidate) else candidate(one[0]) for one in backends]
    scripted = {c.backend: Scripted(c.backend, list(one[1:])) for c, one in zip(listed, backends, strict=True)}
    return World(scripted, listed, **fields)


def failure(cause: Any, **fields: Any) -> UpstreamError:
    return UpstreamError(f"scripted: {cause}", cause, **fields)


@dataclass
class Heard:
    """A reply as a client sees it."""

    text: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    raw: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def reasons(self) -> list[str]:
        return [c["finish_reason"] for e in self.events for c in e["choices"] if c.get("finish_reason")]

    @property
    def usage(self) -> dict[str, Any] | None:
        found = [event["usage"] for event in self.events if event.get("usage")]
        return found[-1] if found else None

    @property
    def exo(self) -> dict[str, Any]:
        return next((event["exo"] for event in self.events if "exo" in event), {})


async def hear(reply: Reply) -> Heard:
    heard = Heard(headers=reply.headers)
    assert reply.frames is not None
    async for piece in reply.frames:
        heard.raw += piece
    for block in heard.raw.split(b"\n\n")[:-1]:
        assert block.startswith(b"data: ")
        heard.events.append(json.loads(block[6:]))
    for event in heard.events:
        for choice in event["choices"]:
            heard.text += (choice.get("delta") or {}).get("content") or choice.get("text") or ""
    return heard
