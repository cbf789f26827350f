"""view.py: addresses between nodes, the JSON of statistics, the spend log by names."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from exo_node.cluster.discovery import Endpoint, PeerSeen
from exo_node.config import Settings
from exo_node.errors import NotFound, PeerUnavailable
from exo_node.limits.api_keys import KeyInfo
from exo_node.routing.call import Caller, CallRecord
from exo_node.routing.front.surroundings import Surroundings
from exo_node.routing.sinks import spend_row
from exo_node.store_spend import NOTHING, SpendQuery
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import NodeInfo, NodeState, PeerLink, Usage
from exo_node.view import NodeView, RoutingView, stats_json


def node(node_id: str) -> NodeInfo:
    return NodeInfo(
        node_id=node_id,
        boot_id="",
        name=node_id,
        version="",
        addresses=(),
        grpc_port=1,
        api_port=2,
        engines=(),
        devices=(),
        memory_total=0,
        memory_free=0,
    )


class Members:
    """b is linked with us (a) and with c."""

    def states(self) -> Mapping[str, NodeState]:
        links = (PeerLink("c", address="10.0.0.3"), PeerLink("a", address="10.0.0.1", bytes_per_s=7))
        return {"b": NodeState(node=node("b"), links=links), "c": NodeState(node=node("c"))}

    def peer(self, node_id: str) -> Any:
        raise PeerUnavailable(node_id)

    def links(self) -> tuple[PeerLink, ...]:
        return (PeerLink("b", address="fe80::2%eth0"), PeerLink("c", address="10.9.9.3"))

    def foreign(self) -> list[PeerSeen]:
        return [
            PeerSeen(source="mdns", key="x", endpoints=(Endpoint("10.0.0.9", 5),), node_id="eve", fingerprint="0" * 32)
        ]

    def problems(self) -> Mapping[str, str]:
        return {"10.0.0.8:5": "nobody there"}


@pytest.fixture
def view() -> NodeView:
    return NodeView("a", Members(), lambda: node("a"), cast(Any, None))


def test_each_node_has_its_own_way_to_another(view: NodeView) -> None:
    """A node reaches itself by loopback, and its peers at the addresses that it told; nobody guesses."""
    assert view.address("a", "a") == "127.0.0.1"
    assert view.address("a", "b") == "fe80::2%eth0"
    assert view.address("b", "c") == "10.0.0.3"
    assert view.address("b", "a") == "10.0.0.1"
    with pytest.raises(PeerUnavailable, match="c"):
        view.address("c", "b")


def test_a_links_speed_is_what_its_sender_measured(view: NodeView) -> None:
    """0 where nobody has measured, also for ways that do not exist or lead nowhere."""
    ways = [("b", "a"), ("b", "c"), ("a", "b"), ("a", "a"), ("c", "b")]
    assert [view.bytes_per_s(*way) for way in ways] == [7, 0, 0, 0, 0]


def test_nodes_are_ourselves_and_the_live_peers(view: NodeView) -> None:
    """Both the ring's and the API's view hold the same nodes."""
    assert sorted(view.nodes()) == ["a", "b", "c"]
    assert sorted(view.topology_view().links) == ["a", "b", "c"]


def test_statistics_are_json_ready() -> None:
    """A runner's report with a hop becomes plain numbers."""
    stats = ring_pb2.RunnerStats(slots=4, slots_used=1, info={"blas": "x"})
    stats.hops.add(step=3, total_us=9).reports.add(stage=1, engine_us=4)
    found = stats_json("a", stats)
    assert (found["node_id"], found["slots_used"], found["info"]) == ("a", 1, {"blas": "x"})
    assert "scheduling" not in found
    stats.scheduling.CopyFrom(ring_pb2.Scheduling(kv_tokens=512, prompt_tokens=9, prefix_hit_tokens=4))
    scheduling = stats_json("a", stats)["scheduling"]
    assert (scheduling["kv_tokens"], scheduling["prefix_hit_tokens"], scheduling["preemptions"]) == (512, 4, 0)
    assert sorted(scheduling) == sorted(field.name for field in ring_pb2.Scheduling.DESCRIPTOR.fields)
    assert found["hops"] == [
        {"step": 3, "total_us": 9, "stages": [{"stage": 1, "queue_us": 0, "engine_us": 4, "codec_us": 0}]}
    ]


async def test_spend_and_what_keys_may_ask_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are found and shown by name, sums have a total, and a key's principal knows its models."""
    monkeypatch.chdir(tmp_path)
    around = Surroundings(
        node_id="me", ring=cast(Any, None), local_models=tuple, fetchable=lambda _: None, peers=dict,
        peer=lambda node_id: cast(Any, node_id),
    )  # fmt: skip
    view = RoutingView(Settings(home=tmp_path), around)
    await view.start()
    try:
        assert await view.spend(SpendQuery(), "day") == {"data": [], "total": NOTHING}
        info, secret = await view.keys.add(KeyInfo(id="", name="ci", models=("gpt-*",)))
        caller = view.authenticate(secret)
        assert caller is not None
        assert (caller.may_ask("gpt-4o"), caller.may_ask("demo")) == (True, False)
        for key_id, known in ((info.id, True), ("key-gone", False)):
            record = CallRecord(
                id="c", kind="chat", model="m", served_model="m", backend="b", provider="p", stream=False,
                caller=Caller(key_id), started=time.time(), usage=Usage(3, 4), cost_known=known,
            )  # fmt: skip
            view.store.log_spend(spend_row(record, "me"))
        (mine,) = (await view.spend(SpendQuery(key_id="ci"), None))["data"]
        assert (mine["key_id"], mine["key_name"], mine["cost"]) == (info.id, "ci", 0.0)
        (other,) = (await view.spend(SpendQuery(key_id="key-gone"), None))["data"]
        assert (other["key_name"], other["cost"]) == ("", None)
        with pytest.raises(NotFound, match=r"no API key 'old'.* there are: ci; one that was revoked goes by its id"):
            await view.spend(SpendQuery(key_id="old"), "day")
        for there in ("", "admin", info.id):
            assert (await view.spend(SpendQuery(key_id=there, since=time.time() + 9), None))["data"] == []
        found = await view.spend(SpendQuery(), "key")
        assert sorted(row["key_name"] for row in found["data"]) == ["", "ci"]
        assert (found["total"]["requests"], found["total"]["unpriced"]) == (2, 1)
    finally:
        await view.stop()


def test_who_is_outside_is_told(view: NodeView) -> None:
    """Nodes of other clusters are listed with theirs, and why others are not here."""
    view.attach(cast(Any, Nothing()))
    told = view.topology()
    assert told["other_clusters"] == [{"node_id": "eve", "cluster": "00000000", "address": "10.0.0.9:5"}]
    assert told["problems"] == {"10.0.0.8:5": "nobody there"}


class Nothing:
    """No instances."""

    def all(self) -> list[Any]:
        return []
