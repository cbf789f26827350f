"""routing/health/profile_keeper.py: a real profile over a real database, and peers that answer with real messages."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import ExoError, NotFound, PeerUnavailable
from exo_node.routing.health.profile import Profile
from exo_node.routing.health.profile_keeper import PERIOD_S, Peer, ProfileKeeper, fault_of
from exo_node.routing.upstream.relay_host import RelayHost
from exo_node.store import Store
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from tests.unit.routing.adapter_parts import candidate

RING, CLOUD, MINE = candidate("ring:demo"), candidate("cloud:m"), candidate("box:m", provider="ollama")
THROUGH = candidate("cloud@b:m", kind="peer", node_id="b")


@dataclass
class Node:
    """A node's profile with its keeper. `now` is its monotonic clock, `wall` everybody's."""

    path: Path
    name: str = "a"
    now: float = 1000.0
    wall: float = 1e9
    told: dict[str, Peer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.profile, self.store = Profile(), Store(self.path)
        self.naps: list[float] = []
        self.rested = asyncio.Event()
        self.keeper = ProfileKeeper(
            self.profile, self.store, self.name, self.peers, clock=lambda: self.now, wall=lambda: self.wall,
            sleep=self.sleep,
        )  # fmt: skip

    def peers(self) -> Mapping[str, Peer]:
        return self.told

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds
        self.wall += seconds
        if len(self.naps) > 3:
            self.rested.set()
            await asyncio.Event().wait()

    def measure(self, one: Any, ttft_s: float, times: int = 10, prompt: int = 100) -> None:
        for _ in range(times):
            self.now += 1
            self.wall += 1
            self.profile.observe_ttft(one, prompt, ttft_s, self.now)
            self.profile.observe_itl(one, ttft_s / 10, 20, self.now)

    def close(self) -> None:
        self.store.close()


@dataclass
class Wire:
    """A peer: its `RelayHost`'s rows, or `raw`, or `error`; the message is really encoded."""

    keeper: ProfileKeeper | None = None
    raw: bytes = b""
    error: ExoError | None = None
    asked: int = 0

    async def call(self, method: str, request: Any, timeout: float) -> Any:
        assert (method, type(request)) == ("CollectProfile", pb.CollectProfileRequest)
        self.asked += 1
        if self.error is not None:
            raise self.error
        if self.keeper is not None:
            self.raw = RelayHost(None, self.keeper.rows).profile()  # type: ignore[arg-type]
        return pb.CollectProfileResponse.FromString(pb.CollectProfileResponse(rows_json=self.raw).SerializeToString())


@pytest.fixture
def node(tmp_path: Path) -> Any:
    made = Node(tmp_path / "s.db")
    yield made
    made.close()


@pytest.fixture
def other(tmp_path: Path) -> Any:
    made = Node(tmp_path / "other.db", "b", now=5.0)
    yield made
    made.close()


async def test_what_is_known_survives_a_restart(node: Node) -> None:
    """Profile -> store -> profile: predictions are the same on another clock at once; older after a night."""
    for one, ttft_s in ((RING, 0.8), (CLOUD, 2.0)):
        node.measure(one, ttft_s, 60)
        node.measure(one, ttft_s * 20, 60, prompt=20_000)
    node.keeper.save()
    node.close()
    again = Node(node.path, now=3.0, wall=node.wall)
    await again.keeper.load()
    for one in (RING, CLOUD):
        for prompt in (100, 20_000):
            expected = node.profile.ttft(one, prompt, node.now)
            assert again.profile.ttft(one, prompt, 3.0) == pytest.approx(expected)
        assert again.profile.itl(one, 3.0) == pytest.approx(node.profile.itl(one, node.now))
        assert again.profile.known(one, 3.0) == pytest.approx(node.profile.known(one, node.now))
    again.close()

    morning = Node(node.path, now=3.0, wall=node.wall + 12 * 3600)
    await morning.keeper.load()
    assert morning.profile.known(CLOUD, 3.0) < 1e-6
    prior = Profile().ttft(CLOUD, 100, 0.0)
    assert morning.profile.ttft(CLOUD, 100, 3.0) == pytest.approx(prior, rel=0.15)
    morning.close()


async def test_a_clock_set_back_makes_nothing_younger(node: Node) -> None:
    """Rows from the future count as taken now."""
    node.measure(CLOUD, 2.0)
    node.keeper.save()
    await node.store.flush()
    again = Node(node.path, now=3.0, wall=node.wall - 1e6)
    await again.keeper.load()
    assert again.profile.known(CLOUD, 3.0) == pytest.approx(node.profile.known(CLOUD, node.now))
    again.close()


async def test_only_rows_that_changed_are_written(node: Node) -> None:
    """A row keeps the time of its own change; rows of backends that are gone are forgotten, so are week-old ones."""
    node.measure(RING, 1.0, 1)
    node.measure(CLOUD, 1.0, 1)
    node.keeper.save()
    first = await node.store.load_profile("a")
    node.measure(CLOUD, 1.0, 1)
    node.keeper.save()
    second = await node.store.load_profile("a")
    assert first["ring:demo -1"] == second["ring:demo -1"]
    assert first["cloud:m -1"]["at"] < second["cloud:m -1"]["at"] == node.wall
    node.profile.forget("ring:demo")
    node.keeper.save()
    assert all(name.startswith("cloud:m") for name in await node.store.load_profile("a"))
    late = Node(node.path, wall=node.wall + 8 * 86400)
    await late.keeper.load()
    assert (late.profile.snapshot(0.0), await late.store.load_profile("a")) == ([], {})
    late.close()


async def test_malformed_rows_of_the_store_are_dropped(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """The good ones are loaded all the same, the others are named and forgotten."""
    node.measure(CLOUD, 2.0)
    node.keeper.save()
    bad = {"x": 7, "y": {"at": 1, "row": {"bin": -1}}, "z": {"at": "now", "row": node.profile.snapshot(node.now)[0]}}
    node.store.save_profile("a", bad)
    await node.store.flush()
    again = Node(node.path)
    await again.keeper.load()
    assert len([one for one in caplog.records if one.levelno >= logging.WARNING]) == 3
    assert again.profile.known(CLOUD, again.now) > 0.5
    assert not set(bad) & (await again.store.load_profile("a")).keys()
    again.close()


async def test_a_file_that_is_no_database_costs_only_the_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The node starts with its priors and says why."""
    (tmp_path / "s.db").write_bytes(b"not a database, but long enough to be looked at" * 50)
    node = Node(tmp_path / "s.db")
    await node.keeper.load()
    assert "s.db" in caplog.text and node.profile.snapshot(0.0) == []
    node.close()


async def test_a_peers_measurements_become_part_of_the_prior(node: Node, other: Node) -> None:
    """The same provider and model is expected to be as slow as the peer saw it, less the less is known; one's own
    measurements count for more."""
    other.measure(CLOUD, 6.0, 50)
    node.told["b"] = Wire(other.keeper)
    mine = candidate("another-name", model="m")
    before = node.profile.ttft(mine, 100, node.now)
    await node.keeper.collect()
    after = node.profile.ttft(mine, 100, node.now)
    assert before + 1 < after < 4.0
    other.now += 6 * 3600
    await node.keeper.collect()
    assert before < node.profile.ttft(mine, 100, node.now) < before + (after - before) / 4
    node.measure(mine, 1.0, 30)
    assert node.profile.ttft(mine, 100, node.now) == pytest.approx(1.0, rel=0.1)


async def test_rings_and_what_only_one_machine_reaches_stay_there(node: Node, other: Node) -> None:
    """No ring, no local server, nothing measured through a third node is told; ids of deployments neither."""
    for one in (RING, CLOUD, MINE, THROUGH):
        other.measure(one, 6.0)
    assert [(row["provider"], row["model"], row["bin"]) for row in other.keeper.rows()] == [("openai", "m", -1)]
    assert "backend" not in other.keeper.rows()[0]
    raw = json.dumps([row for row in other.profile.snapshot(other.now) if row["kind"] != "deployment"]).encode()
    node.told["b"] = Wire(raw=raw)  # an older node may tell all it has
    before = [node.profile.ttft(one, 100, node.now) for one in (RING, CLOUD, MINE, THROUGH)]
    await node.keeper.collect()
    assert before == [node.profile.ttft(one, 100, node.now) for one in (RING, CLOUD, MINE, THROUGH)]


async def test_nothing_that_came_from_peers_goes_back(node: Node, other: Node) -> None:
    """Neither to peers nor into the store."""
    other.measure(CLOUD, 6.0)
    node.told["b"] = Wire(other.keeper)
    await node.keeper.collect()
    assert node.profile.ttft(CLOUD, 100, node.now) > 1.0
    node.keeper.save()
    assert (node.keeper.rows(), await node.store.load_profile("a")) == ([], {})


async def test_the_best_founded_of_many_peers_counts(node: Node, other: Node, tmp_path: Path) -> None:
    """Whichever answers last."""
    other.measure(CLOUD, 6.0, 50)
    third = Node(tmp_path / "third.db", "c")
    third.measure(CLOUD, 0.1, 2)
    for told in (
        {"b": Wire(other.keeper), "c": Wire(third.keeper)},
        {"c": Wire(third.keeper), "b": Wire(other.keeper)},
    ):
        node.told = dict(told)
        await node.keeper.collect()
        assert node.profile.ttft(CLOUD, 100, node.now) > 2.0
    third.close()


async def test_peers_that_fail_or_talk_nonsense_harm_nobody(
    node: Node, other: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """Malformed rows are left out with one line until the peer is well again; the others' rows are taken."""
    other.measure(CLOUD, 6.0, 50)
    good = other.keeper.rows()[0]
    node.told = {
        "gone": Wire(error=PeerUnavailable("gone")), "off": Wire(error=NotFound("calls no external models")),
        "deep": Wire(raw=b"[" * 100_000), "text": Wire(raw=b"\xff"), "b": Wire(raw=json.dumps([{}, 3, good]).encode()),
    }  # fmt: skip
    await node.keeper.collect()
    await node.keeper.collect()
    lines = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert sorted(line.split(":")[0] for line in lines) == ["node b", "node deep", "node text"]
    assert "2 malformed rows" in next(line for line in lines if line.startswith("node b"))
    assert node.profile.ttft(CLOUD, 100, node.now) > 2.0
    node.told["text"] = Wire(raw=b"[]")
    await node.keeper.collect()
    node.told["text"] = Wire(raw=b"{}")
    await node.keeper.collect()
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING][3:] == [
        "node text: 1 malformed rows in its latency profile are left out: it is no JSON list"
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", 1), ("provider", None), ("model", ["m"]), ("bin", 99), ("bin", True), ("samples", -3),
        ("samples", float("nan")), ("var", 0), ("level", 1e9), ("age_s", "old"), ("itl_age_s", -1e9), ("itl_s", -1),
        ("fit", [1.0]), ("fit", [float("inf")] * 11), ("fit", [-1.0] * 11),
        ("fit", [0.0] * 6 + [1e15] * 3 + [1e-12] * 2),
        ("fit", None), ("gap_s", 10**400),
    ],
)  # fmt: skip
def test_faulty_rows_are_known(node: Node, name: str, value: Any) -> None:
    """Every field that would break an estimate is refused; the row without the fault is not."""
    node.measure(CLOUD, 2.0)
    rows = node.profile.snapshot(node.now)
    assert [fault_of(row) for row in rows] == [""] * len(rows)
    assert fault_of({**rows[0], name: value})


async def test_it_runs_every_30_seconds_and_saves_at_its_end(node: Node) -> None:
    """Cancelling the task writes what came last."""
    wire = node.told["b"] = Wire(raw=b"[]")
    task = asyncio.create_task(node.keeper.run())
    await node.rested.wait()
    assert (wire.asked, set(node.naps[1:])) == (3, {PERIOD_S})
    node.measure(CLOUD, 2.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await node.store.load_profile("a"))["cloud:m -1"]["row"]["samples"] == 10
