"""Cache and limits before the adapter, the candidate's gate, and what is written down after."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import orjson
import pytest

from exo_node.errors import BudgetExceeded, ModelNotAllowed, NoCapacity, RateLimited
from exo_node.limits.api_keys import ApiKeys, KeyInfo
from exo_node.limits.gate import Gate, Rate, Rules
from exo_node.metrics import Metrics
from exo_node.routing.call import AttemptRecord, Call, Caller, CallRecord, Reply, Wishes
from exo_node.routing.candidate_gate import CandidateGate
from exo_node.routing.deployment import CacheConfig, Deployment
from exo_node.routing.entrance import Entrance
from exo_node.routing.plan import Candidate
from exo_node.routing.replay import events_of
from exo_node.routing.response_cache import MemoryKeeper, ResponseCache
from exo_node.routing.sinks import measure, spend_row
from exo_node.store import Store
from exo_node.types import Usage
from tests.unit.routing.cache_samples import chat, make_call, make_whole


@dataclasses.dataclass
class Made:
    keys: ApiKeys
    gate: Gate
    front: Entrance
    told: list[CallRecord]
    served: list[Call]
    cut: bool = False
    fail: bool = False
    cost: float = 0.0


def record(call: Call, cost: float = 0.0) -> CallRecord:
    return CallRecord(
        id=call.id, kind=call.kind, model=call.model, served_model="gpt-4o", backend="d", provider="openai",
        stream=call.stream, caller=call.caller, started=1e9, usage=Usage(3, 4), cost=cost,
        attempts=[AttemptRecord(backend="d", usage=Usage(3, 4), cost=cost)],
    )  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    store = Store(tmp_path / "s.db")
    keys = ApiKeys(store)
    gate = Gate(node="a", keys=keys, sums=store)
    told: list[CallRecord] = []

    def tell(record: CallRecord) -> None:
        told.append(record)

    async def serve(call: Call) -> Reply:
        made.served.append(call)
        if made.fail:
            made.front.finished(dataclasses.replace(record(call), status=503))
            raise NoCapacity("nobody")
        headers = {"x-exo-backend": "d"}
        if call.stream:
            return Reply(headers=headers, frames=frames(call))
        made.front.finished(record(call, made.cost))
        return Reply(headers=headers, whole=make_whole(chat()))

    async def frames(call: Call) -> AsyncGenerator[bytes, None]:
        events = [b"data: " + orjson.dumps(one) + b"\n\n" for one in events_of(chat(), usage=False)]
        yield b"".join(events[:2])
        for event in events[2 : -1 if made.cut else None]:
            yield event
        made.front.finished(record(call, made.cost))

    cache = ResponseCache(CacheConfig(kind="memory"), MemoryKeeper(10**6))
    made = Made(keys, gate, Entrance(serve, gate, cache, sinks=[tell], predict=lambda call: 0.5), told, [])
    yield made
    store.close()


async def events(reply: Reply) -> list[bytes]:
    assert reply.frames is not None
    return [piece async for piece in reply.frames]


async def test_a_stream_serves_a_plain_request_and_the_other_way_round(made: Made) -> None:
    """What one asked as a stream another gets whole, and as a stream again; each is told as cached and free."""
    await events(await made.front.serve(make_call(stream=True)))
    plain = await made.front.serve(make_call())
    assert plain.whole is not None and plain.whole.data is not None
    expected = chat()
    assert plain.whole.data["choices"] == expected["choices"] and plain.whole.data["usage"] == expected["usage"]
    assert plain.headers["x-exo-cached"] == "true"
    assert len(await events(await made.front.serve(make_call(stream=True)))) > 3
    assert len(made.served) == 1
    assert [(one.cached, one.cost, one.usage.completion_tokens) for one in made.told] == [(True, 0.0, 4)] * 2


async def test_a_cut_stream_is_not_kept(made: Made) -> None:
    """A stream that ended early, was left by its client, or failed leaves nothing in the cache."""
    made.cut = True
    await events(await made.front.serve(make_call(stream=True)))
    made.cut = False
    reply = await made.front.serve(make_call(stream=True))
    assert reply.frames is not None
    await anext(reply.frames)
    await reply.frames.aclose()
    made.fail = True
    with pytest.raises(NoCapacity):
        await made.front.serve(make_call())
    assert len(made.served) == 3


async def test_no_cache_goes_to_the_adapter(made: Made) -> None:
    """A request that says no-cache is served afresh, though there is an answer."""
    for _ in range(2):
        await made.front.serve(make_call(wishes=Wishes(no_cache=True)))
    await made.front.serve(make_call())
    await made.front.serve(make_call())
    assert len(made.served) == 3


async def test_limits_hold_and_are_settled(made: Made) -> None:
    """A refused request does not reach the adapter; budgets are reserved before and settled with the record."""
    info, _ = await made.keys.add(KeyInfo(id="", name="ci", budget=1.0, models=("gpt",)))
    no_cache = Wishes(no_cache=True)
    made.cost = 0.1
    for _ in range(6):  # 0.5 is predicted, 0.1 is spent
        await made.front.serve(make_call(key=info.id, wishes=no_cache))
    with pytest.raises(BudgetExceeded, match=r"0\.600000 USD"):
        await made.front.serve(make_call(key=info.id, wishes=no_cache))
    with pytest.raises(ModelNotAllowed):
        await made.front.serve(make_call(key=info.id, model="other"))
    made.gate.rules = Rules(router=Rate(rpm=1))
    await made.front.serve(make_call())
    await made.front.serve(make_call())  # from the cache: it takes nothing
    with pytest.raises(RateLimited):
        await made.front.serve(make_call(temperature=1))
    assert len(made.served) == 7


async def test_candidates_take_from_their_deployment(made: Made) -> None:
    """A deployment's rpm holds per call and its tpm is settled; rings and peers are not limited here."""
    deployment = Deployment(id="d", model_name="m", litellm_model="openai/m", provider="openai", upstream_model="m",
                            rpm=3, tpm=100)  # fmt: skip
    gate = CandidateGate(made.gate, {"d": deployment}.get)
    ring = Candidate(backend="ring:m", kind="ring", provider="exo", model="m")
    one = Candidate(backend="d", kind="deployment", provider="openai", model="m")
    assert await gate.acquire(ring, 10**6, 0.0)
    gate.settle(ring, 10**6, 5, 0.0, 0.0)
    assert await gate.acquire(one, 5000, 0.0)  # more than fits at all is cut down
    assert not await gate.acquire(one, 1, 0.0) and not gate.room(deployment)
    gate.settle(one, 5000, 10, 0.0, 0.0)
    assert gate.room(deployment)
    assert await gate.acquire(one, 40, 0.0) and await gate.acquire(one, 50, 0.0)
    gate.settle(one, 50, 0, 0.0, 0.0)
    gate.settle(one, 40, 0, 0.0, 0.0)
    assert not await gate.acquire(one, 1, 0.0)


async def test_what_is_written_down(tmp_path: Path) -> None:
    """The spend log has numbers and names but no prompt; odd names can be stored; the metrics have the same."""
    call = dataclasses.replace(make_call(), caller=Caller("key-1", "\ud800" + "x" * 500))
    store = Store(tmp_path / "log.db")
    store.log_spend(spend_row(record(call, 0.25), "node-a"))
    (row,) = await store.spend_rows()
    assert (row.cost, row.node, row.key_id, len(row.user)) == (0.25, "node-a", "key-1", 200)
    assert row.attempts[0]["prompt_tokens"] == 3
    store.close()
    assert b'"hi"' not in (tmp_path / "log.db").read_bytes()
    metrics = Metrics()
    measure(metrics, record(call, 0.25))
    assert b'exo_cost_usd_total{backend="d",provider="openai"} 0.25' in metrics.render()[0]
