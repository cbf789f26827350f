"""Real daemons: instances come and go under bad conditions, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil
import pytest

from tests.integration.harness import NodeProcess, nodes, wait_until

ASK = {"model": "demo", "prompt": "Tell me a story", "max_tokens": 4, "temperature": 0}
FREE = 2 * 2**30


def runners(node: NodeProcess) -> list[psutil.Process]:
    """The live runner processes of a node."""
    found = []
    for one in psutil.Process(node.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.status() != psutil.STATUS_ZOMBIE and "exo_node.ring.runner" in one.cmdline():
                found.append(one)
    return found


def place(node: NodeProcess, **body: Any) -> tuple[int, Any]:
    return node.request("POST", "/v1/instances", {"model": "demo", **body})


def clear(cluster: list[NodeProcess]) -> None:
    """Take every instance down and wait until each node knows it, and all memory is back."""
    for one in cluster[0].topology()["instances"]:
        cluster[0].request("DELETE", f"/v1/instances/{one['id']}")

    def clean() -> bool:
        views = [node.topology() for node in cluster]
        free = {shown["memory_free"] for view in views for shown in view["nodes"].values()}
        return not any(view["instances"] for view in views) and free == {FREE} and not any(map(runners, cluster))

    wait_until(clean, 15, lambda: cluster[0].topology())


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """Nodes a (with two CPU devices), b and c, each with 2 GiB for models."""
    limit = ["--memory-limit", "2GiB", "-v"]
    with nodes(
        tmp_path_factory.mktemp("lifecycle") / "home",
        ["--node-id", "a", "--devices", "CPU:0,CPU:1", *limit],
        ["--node-id", "b", *limit],
        ["--node-id", "c", *limit],
    ) as cluster:
        yield cluster


def test_one_runner_a_device(trio: list[NodeProcess]) -> None:
    """A node of two devices takes two stages, each in a runner of its own; the text is that of one node."""
    a, b, _ = trio
    status, alone = place(b, nodes=["b"])
    assert status == 200, alone
    text = b.request("POST", "/v1/completions", ASK)[1]["choices"][0]["text"]
    clear(trio)
    status, instance = place(b, nodes=["a", "a"])
    assert status == 200, instance
    assert [(one["node_id"], one["device"]) for one in instance["shards"]] == [("a", "CPU:0"), ("a", "CPU:1")]
    assert len(runners(a)) == 2
    assert b.request("POST", "/v1/completions", ASK)[1]["choices"][0]["text"] == text
    held = FREE - b.topology()["nodes"]["a"]["memory_free"]
    assert 0 < held < FREE  # what an instance holds shows at every node
    status, refused = place(a, nodes=["b", "b"])
    assert status == 400
    assert "named 2 times, it has 1 device" in refused["error"]["message"]
    clear(trio)


def test_requests_at_once_share_one_placement(trio: list[NodeProcess]) -> None:
    """First requests at three nodes at the same moment are served by one instance, not by three."""
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda node=node: answers.append(node.request("POST", "/v1/completions", ASK)[0]))
        for node in trio
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200, 200, 200]
    wait_until(lambda: {len(node.topology()["instances"]) for node in trio} == {1}, 5)
    clear(trio)


def test_a_client_that_goes_away_ends_the_load(trio: list[NodeProcess]) -> None:
    """Whoever asked for an instance and hangs up while it loads leaves no runner and no reserved memory."""
    body = json.dumps({"model": "demo", "min_nodes": 3}).encode()
    head = "POST /v1/instances HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}"
    for node in trio:
        url = urlparse(node.api)
        with socket.create_connection((url.hostname or "", url.port or 0)) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode() + body)
            wait_until(lambda: all(map(runners, trio)), 10)
        clear(trio)


def test_an_instance_that_loads_cannot_be_deleted(trio: list[NodeProcess]) -> None:
    """DELETE of an instance that is still loading says so, and does not pretend."""
    placed: list[tuple[int, Any]] = []
    # tinygrad compiles for a second or more while it loads: time enough to ask.
    thread = threading.Thread(target=lambda: placed.append(place(trio[0], min_nodes=3, engines=["tinygrad"])))
    thread.start()
    wait_until(lambda: trio[1].topology()["instances"], 10)
    shown = trio[1].topology()["instances"][0]
    if shown["state"] == "loading":
        status, answer = trio[1].request("DELETE", f"/v1/instances/{shown['id']}")
        assert (status, answer["error"]["code"]) == (409, "instance_loading")
    thread.join()
    assert placed[0][0] == 200, placed
    clear(trio)


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP])
def test_a_follower_lost_in_an_answer(trio: list[NodeProcess], what: signal.Signals) -> None:
    """A runner that dies, or hangs, in an answer: the ring is brought back and the client gets all of it, unaware."""
    status, instance = place(trio[0], nodes=["c", "b"])
    assert status == 200, instance
    body = {
        "model": "demo",
        "prompt": "Tell me a story",
        "max_tokens": 400,
        "temperature": 1,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body["logit_bias"] = {str(token): -100 for token in range(8)}  # no early end of text
    request = urllib.request.Request(
        f"{trio[0].api}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    (victim,) = runners(trio[1])
    with urllib.request.urlopen(request, timeout=60) as answer:
        first = answer.readline()
        victim.send_signal(what)
        lines = [first, *answer.read().splitlines()]
    events = [line.removeprefix(b"data: ").strip() for line in lines if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    last = json.loads(events[-2])
    assert last["usage"]["completion_tokens"] == 400
    assert (last["exo"]["continued"], last["exo"]["backends"]) == (False, ["ring:demo"])
    reasons = [one["finish_reason"] for event in events[:-1] for one in json.loads(event)["choices"]]
    assert [reason for reason in reasons if reason] == ["length"]
    status, found = trio[0].request("GET", "/v1/recoveries")
    assert status == 200
    assert (found["data"][-1]["instance_id"], found["data"][-1]["epoch"]) == (instance["id"], 2)
    assert [one["id"] for one in trio[0].topology()["instances"]] == [instance["id"]]
    assert trio[0].request("POST", "/v1/completions", ASK)[0] == 200
    clear(trio)


@pytest.mark.parametrize(("before", "after"), [(0, 0), pytest.param(3.5, 11, marks=pytest.mark.soak)])
def test_a_member_that_hangs_loses_its_part_only(trio: list[NodeProcess], before: float, after: float) -> None:
    """A stopped daemon's stage goes to another node; other rings keep their leases meanwhile (seen for longer than a
    lease in the soak run; test_caretaker.py has the renewals), and when it comes back it lets go of what it had."""
    a, b, c = trio
    status, struck = place(a, nodes=["a", "b"])
    assert status == 200, struck
    status, kept = place(a, nodes=["a", "c"])
    assert status == 200, kept

    def rings(node: NodeProcess) -> dict[str, list[str]]:
        found = [one for one in node.topology()["instances"] if one["state"] == "ready"]
        return {one["id"]: [shard["node_id"] for shard in one["shards"]] for one in found}

    time.sleep(before)  # a renewal is under way or due when the member stops
    os.kill(b.process.pid, signal.SIGSTOP)
    try:
        for node in (a, c):
            wanted = {struck["id"]: ["a", "c"], kept["id"]: ["a", "c"]}
            wait_until(lambda at=node, to=wanted: rings(at) == to, 20, a.log)
        time.sleep(after)  # longer than a lease
        assert rings(c)[kept["id"]] == ["a", "c"]
    finally:
        os.kill(b.process.pid, signal.SIGCONT)
    for node in trio:
        node.wait_nodes(3)
    wait_until(lambda: not runners(b), 15, b.log)
    clear(trio)


def test_a_model_too_large_for_one_node_is_split(tmp_path: Path) -> None:
    """`--memory-limit` holds: a model that fits on no single node goes on two; on less it is refused with numbers."""
    with nodes(tmp_path / "two", *[["--memory-limit", "178MB"]] * 2) as cluster:
        status, instance = place(cluster[0])
        assert status == 200, instance
        assert len({one["node_id"] for one in instance["shards"]}) == 2
        for shown in cluster[1].topology()["nodes"].values():
            assert shown["memory_total"] <= 178_000_000
            assert shown["memory_free"] < 20_000_000
    with nodes(tmp_path / "one", ["--memory-limit", "161MB"]) as (node,):
        status, refused = place(node)
        assert status == 503
        assert "161,000,000 are free" in refused["error"]["message"]
        assert node.request("GET", "/health")[0] == 200
