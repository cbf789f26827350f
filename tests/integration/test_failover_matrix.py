"""Every way in which a backend fails, times plain and streamed, times where the answer comes from instead (issue 3).

The real adapter, policy, profile, breaker and pass-through, stand-in providers over real sockets, and the ring's own
upstream over a backend that fails as told.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from exo_node.api.ring_upstream import RingUpstream
from exo_node.config import Settings
from exo_node.errors import (
    AnswerLost,
    ExoError,
    ModelNotFound,
    NoCapacity,
    PeerUnavailable,
    RingBroken,
    Unauthorized,
)
from exo_node.routing.adapter.adapter import LiteLLMAdapter
from exo_node.routing.adapter.parts import Options, Parts
from exo_node.routing.call import Call, CallRecord, Reply, Upstream
from exo_node.routing.deployment import Deployment, Price
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.health.retry_budget import RetryBudget
from exo_node.routing.plan import Candidate
from exo_node.routing.policy.policy import choose
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.passthrough import PassThrough
from exo_node.types import EmbeddingRequest, Embeddings, GenerationRequest, ModelCard, TokenDelta, Usage
from tests.standins import Script, Standin, answer_to, no_such_host_url, refused_url, self_signed, standin
from tests.standins.answers import pieces

QUESTION = "What is a ring?"
ANSWER = answer_to(QUESTION)
KEY = "sk-planted-0123456789"
PATIENCE_S = 0.3  # of the deployment that stalls
HAZARDS = ("refused", "dns", "tls", "401", "404", "429", "500", "stall first", "stall mid", "reset", "eof", "malformed")
# What the client is told where nobody else can answer: the cause, on a stream and plain.
CAUSE = {
    "refused": "refused", "dns": "dns", "tls": "tls", "401": "auth", "404": "not_found", "429": "rate_limited",
    "500": "server", "stall first": "timeout", "stall mid": "timeout", "reset": "reset", "eof": "eof",
    "malformed": "malformed",
}  # fmt: skip
SCRIPTS = {
    "401": Script(status=401), "404": Script(status=404), "429": Script(status=429, retry_after="7"),
    "500": Script(status=500), "stall first": Script(stall_after=0), "stall mid": Script(stall_after=3),
    "reset": Script(reset_after=3), "eof": Script(eof_after=3), "malformed": Script(malformed_after=3),
}  # fmt: skip
# The same on a ring: it fails before the first token, or after three.
RING_ERRORS: dict[str, ExoError] = {
    "refused": PeerUnavailable("the head cannot be reached"),
    "dns": PeerUnavailable("no address of the head"),
    "tls": PeerUnavailable("the head does not hold this cluster's key"),
    "401": PeerUnavailable("the runner refused the token"),
    "404": ModelNotFound("no model 'ring-model' any more"),
    "429": NoCapacity("every slot is taken"),
    "500": RingBroken("stage 1 failed"),
    "reset": RingBroken("stage 1 went away"),
    "malformed": RingBroken("the head sent token 9 where 3 was next"),
}
MID = frozenset({"stall mid", "reset", "eof", "malformed"})


class Ring:
    """A local backend whose tokens are words; `hazard` "" answers."""

    def __init__(self, hazard: str) -> None:
        self.hazard = hazard
        self.asked = 0

    async def encode(self, request: GenerationRequest) -> tuple[list[int], str]:
        raise NotImplementedError

    async def count_tokens(self, request: GenerationRequest) -> int:
        raise NotImplementedError

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        raise NotImplementedError

    async def models(self) -> list[ModelCard]:
        return []

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        self.asked += 1
        assert ANSWER.startswith(request.prefix)
        words = pieces(ANSWER[len(request.prefix) :])
        for i, word in enumerate(words):
            if self.hazard and i == (3 if self.hazard in MID else 0):
                if self.hazard == "eof":
                    return
                if self.hazard.startswith("stall"):
                    await asyncio.Event().wait()
                raise RING_ERRORS[self.hazard]
            await asyncio.sleep(0)
            yield TokenDelta(word, (i,))
        yield TokenDelta("", (), finish_reason="stop", usage=Usage(4, len(words)))


@dataclass
class World:
    """A registry of two backends."""

    adapter: LiteLLMAdapter
    upstreams: dict[str, Upstream]
    listed: list[Candidate]
    records: list[CallRecord] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)  # backend -> the stand-in or ring behind it

    async def candidates(self, call: Call) -> list[Candidate]:
        return self.listed

    def upstream(self, candidate: Candidate) -> Upstream:
        return self.upstreams[candidate.backend]

    def requests(self, backend: str) -> int:
        there = self.asked[backend]
        if isinstance(there, Ring):
            return there.asked
        return len(there.requests) if isinstance(there, Standin) else 0


@asynccontextmanager
async def world(folder: Path, *backends: tuple[str, str]) -> AsyncIterator[World]:
    """Of ("local" | "cloud", hazard) each, in the order in which they are to be tried."""
    async with AsyncExitStack() as stack:
        connections = Connections()
        stack.push_async_callback(connections.close)
        made = World(None, {}, [])  # type: ignore[arg-type]
        for order, (kind, hazard) in enumerate(backends):
            name = "ring:ring-model" if kind == "local" else f"cloud-{order}"
            if kind == "local":
                ring = Ring(hazard)
                made.asked[name] = ring
                made.upstreams[name] = RingUpstream(ring, Settings(home=folder))
            else:
                url = {"refused": refused_url, "dns": no_such_host_url}.get(hazard, str)()
                if not url:
                    tls = self_signed(folder) if hazard == "tls" else None
                    there = await stack.enter_async_context(
                        standin("openai", key=KEY, script=SCRIPTS.get(hazard, Script()), tls=tls)
                    )
                    made.asked[name], url = there, there.url
                else:
                    made.asked[name] = None
                made.upstreams[name] = PassThrough(
                    connections,
                    Deployment(
                        id=name, model_name="m", litellm_model="openai/gpt-test", provider="openai",
                        upstream_model="gpt-test", params={"api_key": KEY}, api_base=f"{url}/v1",
                    ),
                )  # fmt: skip
            made.listed.append(
                Candidate(
                    backend=name, kind="ring" if kind == "local" else "deployment",
                    provider="exo" if kind == "local" else "openai",
                    model="ring-model" if kind == "local" else "gpt-test", order=order,
                    capabilities=frozenset({"prefill"}), price=None if kind == "local" else Price(1.0, 2.0),
                    stream_timeout_s=PATIENCE_S if hazard.startswith("stall") else None,
                    timeout_s=PATIENCE_S if hazard.startswith("stall") else None, num_retries=0,
                )
            )  # fmt: skip
        parts = Parts(
            sources=made, choose=choose, profile=Profile(), breaker=Breaker(), retries=RetryBudget(),
            sinks=(lambda record: made.records.append(record),), rng=random.Random(1),
        )  # fmt: skip
        made.adapter = LiteLLMAdapter(parts, Options(strategy="priority"))
        yield made


def call(stream: bool) -> Call:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": QUESTION}]}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Call(
        id="call-1", kind="chat", model="m", body=body, stream=stream, deadline=time.monotonic() + 30, prompt_tokens=4
    )


async def read(reply: Reply) -> tuple[str, list[dict[str, Any]]]:
    """(text, events) of a whole answer or a stream, held to the form that every client expects."""
    if reply.whole is not None:
        data = json.loads(reply.whole.raw)
        assert data["choices"][0]["finish_reason"] == "stop"
        assert data["usage"]["completion_tokens"] > 0
        return data["choices"][0]["message"]["content"], [data]
    assert reply.frames is not None
    events = [json.loads(block.removeprefix(b"data: ")) async for block in blocks(reply.frames)]
    assert len({(event["id"], event["created"]) for event in events}) == 1
    choices = [choice for event in events for choice in event["choices"]]
    assert sum("role" in choice["delta"] for choice in choices) == 1
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert events[-1]["usage"]["total_tokens"] > 0
    return "".join(choice["delta"].get("content") or "" for choice in choices), events


async def blocks(frames: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    raw = b"".join([piece async for piece in frames])
    assert raw.endswith(b"\n\n")
    for block in raw[:-2].split(b"\n\n"):
        yield block


def cause_of(hazard: str, stream: bool) -> str:
    """A body that ends before its Content-Length is a broken connection; a stream that ends early, an end."""
    return "reset" if hazard == "eof" and not stream else CAUSE[hazard]


def held_to_account(made: World, record: CallRecord) -> None:
    """Each request that a backend got is an attempt on record, with its cost where it may be billed."""
    for backend in made.asked:
        tried = [attempt for attempt in record.attempts if attempt.backend == backend]
        assert made.requests(backend) <= len(tried), f"{backend} was asked without a trace"
        for attempt in tried:
            priced = any(one.backend == backend and one.price for one in made.listed)
            if priced and (not attempt.cause or attempt.cause in ("timeout", "reset", "eof", "malformed")):
                assert attempt.cost > 0
    assert record.cost == sum(attempt.cost for attempt in record.attempts)
    assert KEY not in repr(record)


@pytest.mark.parametrize("way", ["local->cloud", "cloud->cloud", "cloud->local"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("hazard", HAZARDS)
async def test_a_healthy_backend_completes_the_answer(hazard: str, stream: bool, way: str, tmp_path: Path) -> None:
    """The client gets the whole answer in one well-formed piece; headers and record say what happened."""
    first, second = way.split("->")
    async with world(tmp_path, (first, hazard), (second, "")) as made:
        reply = await made.adapter.serve(call(stream))
        text, events = await read(reply)
        assert text == ANSWER
        (record,) = made.records
        assert [attempt.backend for attempt in record.attempts] == [one.backend for one in made.listed]
        assert (record.status, record.text, record.backend) == (200, ANSWER, made.listed[1].backend)
        if first == "cloud":
            assert record.attempts[0].cause == cause_of(hazard, stream)
        assert record.attempts[0].cause
        assert record.continued == (stream and hazard in MID)
        if stream:
            assert events[-1]["exo"]["continued"] == record.continued
        attempts = reply.headers["x-exo-attempts"].split(", ")
        assert len(attempts) == (1 if record.continued else 2)
        held_to_account(made, record)


@pytest.mark.parametrize("kind", ["local", "cloud"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("hazard", HAZARDS)
async def test_alone_it_is_one_error_with_the_true_cause(hazard: str, stream: bool, kind: str, tmp_path: Path) -> None:
    """Nobody else to ask: one error, before the first byte where that was possible, with cause, status, Retry-After."""
    async with world(tmp_path, (kind, hazard)) as made:
        started = stream and hazard in MID
        with pytest.raises(ExoError) as caught:
            reply = await made.adapter.serve(call(stream))
            assert started, "an error before the first content has its own status"
            await read(reply)
        error = caught.value
        assert "\n" not in error.message
        assert KEY not in error.message
        (record,) = made.records
        assert record.status == error.status >= 400
        assert record.error == error.message
        if kind == "cloud":
            assert record.attempts[0].cause == cause_of(hazard, stream)
            if hazard == "429":
                assert (error.status, error.retry_after) == (429, 7)
            elif hazard == "404":
                assert error.status == 404
            else:
                assert error.status == {"timeout": 504}.get(CAUSE[hazard], error.status)
        elif hazard in RING_ERRORS and hazard in MID and not stream:
            assert isinstance(error, AnswerLost)
            assert error.__cause__ is RING_ERRORS[hazard]
        elif not started and hazard in RING_ERRORS:
            assert error is RING_ERRORS[hazard], "the ring's own words"
        held_to_account(made, record)


async def test_an_unauthorized_client_is_not_an_upstreams_401(tmp_path: Path) -> None:
    """Our wrong key at a provider is our fault: the client sees 502, not a 401 about a key that it never sent."""
    async with world(tmp_path, ("cloud", "401")) as made:
        with pytest.raises(ExoError) as caught:
            await made.adapter.serve(call(False))
        assert not isinstance(caught.value, Unauthorized)
        assert caught.value.status == 502


async def test_a_recovered_backend_is_asked_again(tmp_path: Path) -> None:
    """The breaker leaves a failing backend out, and the healthy one serves meanwhile."""
    async with world(tmp_path, ("cloud", "429"), ("cloud", "")) as made:
        for _ in range(3):
            text, _ = await read(await made.adapter.serve(call(False)))
            assert text == ANSWER
        assert made.requests("cloud-0") == 1, "Retry-After: 7 is honoured by later calls"
