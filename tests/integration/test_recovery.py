"""Real daemons: rings are brought back, moved and emptied while they answer. The whole matrix of kills: tests/chaos."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.checkpoints import HYBRIDS, make_checkpoint
from tests.integration.harness import NodeProcess, nodes, wait_until
from tests.integration.test_lifecycle import clear, place, runners

DEMO = Path(str(resources.files("exo_node"))) / "models" / "demo"
TOKENS = 160
BODY = {
    "model": "demo",
    "prompt": "Tell me a story",
    "max_tokens": TOKENS,
    "temperature": 1,
    "seed": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
    "logit_bias": {str(token): -100 for token in range(8)},  # no early end of text
}


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """Nodes a, b and c, which promise the same bits always."""
    options = ["--memory-limit", "2GiB", "--reproducible", "-v"]
    with nodes(
        tmp_path_factory.mktemp("recovery") / "home",
        *(["--node-id", name, *options] for name in "abc"),
    ) as cluster:
        yield cluster


def answer(
    node: NodeProcess, at: int = 0, act: Callable[[], None] = lambda: None, **changes: Any
) -> tuple[str, dict[str, Any]]:
    """The text of a streamed completion and its last event; `act` is done at the `at`-th event."""
    body = json.dumps({**BODY, **changes}).encode()
    request = urllib.request.Request(f"{node.api}/v1/completions", body, {"Content-Type": "application/json"})
    text, last, count = "", {}, 0
    with urllib.request.urlopen(request, timeout=60) as stream:
        for line in stream:
            if not line.startswith(b"data: ") or b"[DONE]" in line:
                continue
            last = json.loads(line[6:])
            assert "error" not in last, last
            text += "".join(choice["text"] for choice in last["choices"])
            count += 1
            if count == at:
                act()
    return text, last


@pytest.fixture(scope="module")
def undisturbed(trio: list[NodeProcess]) -> str:
    """What the ring of c and b says when nothing happens."""
    status, made = place(trio[0], nodes=["c", "b"])
    assert status == 200, made
    text, last = answer(trio[0])
    assert last["usage"]["completion_tokens"] == TOKENS
    clear(trio)
    return text


def delete(node: NodeProcess, instance_id: str) -> None:
    assert node.request("DELETE", f"/v1/instances/{instance_id}")[0] == 200


def rings(node: NodeProcess) -> list[list[str]]:
    found = [one for one in node.topology()["instances"] if one["state"] == "ready"]
    return [[shard["node_id"] for shard in one["shards"]] for one in found]


def test_a_drained_node_is_empty_and_the_answer_goes_on(trio: list[NodeProcess], undisturbed: str) -> None:
    """Its stage moves to the node that is free, then, when that is drained too, the ring is cut anew; the text is the
    same. A drained node takes nothing new until that is undone."""
    a, b, c = trio
    status, made = place(a, nodes=["c", "b"])
    assert status == 200, made
    moves: list[tuple[int, Any]] = []

    def drain(name: str) -> Callable[[], None]:
        return lambda: moves.append(a.request("POST", f"/v1/nodes/{name}/drain"))

    assert answer(a, 40, drain("b"))[0] == undisturbed
    assert moves[-1] == (
        200,
        {"id": "b", "object": "node.drained", "draining": True, "moved": [made["id"]], "failed": {}},
    )
    assert rings(a) == [["c", "a"]]
    assert not runners(b)
    status, refused = place(a, nodes=["b"])
    assert (status, "being drained" in refused["error"]["message"]) == (400, True)
    assert answer(a, 40, drain("c"))[0] == undisturbed
    assert rings(a) == [["a"]]
    assert not runners(c)
    status, told = a.request("POST", "/v1/nodes/a/drain", {"undo": False})
    assert (status, list(told["failed"])) == (200, [made["id"]])  # nobody is left to take it: it runs on
    for name in "abc":
        assert a.request("POST", f"/v1/nodes/{name}/drain", {"undo": True})[0] == 200
    clear(trio)


def test_a_node_that_joins_later_takes_load_from_the_next_placement_on(tmp_path: Path) -> None:
    """What is there stays where it is; what finds no room before finds it on the node that has come."""
    home, options = tmp_path / "home", ["--memory-limit", "300MiB"]
    with nodes(home, ["--node-id", "f", *options]) as (f,):
        status, first = place(f)
        assert status == 200, first
        before, _ = answer(f)
        status, refused = place(f)
        assert (status, refused["error"]["code"]) == (503, "no_capacity"), refused
        g = NodeProcess(home, "--node-id", "g", *options).wait_ready()
        try:
            f.wait_nodes(2)
            status, second = place(f)
            assert (status, [one["node_id"] for one in second["shards"]]) == (200, ["g"]), second
            assert sorted(rings(f)) == [["f"], ["g"]]
            delete(f, first["id"])
            assert answer(f)[0] == before  # by the node that joined
        finally:
            g.stop()


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """Nodes d and e, which give a runner that loads a minute in which it may be stopped."""
    options = ["--peer-timeout", "60", "-v"]
    with nodes(tmp_path_factory.mktemp("patient") / "home", *(["--node-id", name, *options] for name in "de")) as pair:
        yield pair


def stop_the_next(pair: list[NodeProcess]) -> Callable[[], psutil.Process]:
    """Stops the first runner that comes from now on, on any of the nodes, and gives it; it may be waited for."""
    there = {one.pid for node in pair for one in runners(node)}
    found: list[psutil.Process] = []

    def look() -> bool:
        found.extend(one for node in pair for one in runners(node) if one.pid not in there)
        for one in found:
            one.suspend()
        return bool(found)

    def wait() -> psutil.Process:
        wait_until(look, 30)
        return found[0]

    return wait


def test_what_is_asked_while_a_ring_is_brought_back_waits_for_that_ring(patient: list[NodeProcess]) -> None:
    """No request that comes in the middle of a recovery places the model a second time, for which there may be no
    memory."""
    d, e = patient
    status, made = place(d, nodes=["d", "e"])
    assert status == 200, made
    answers: list[int] = []

    def ask(node: NodeProcess) -> None:
        answers.append(node.request("POST", "/v1/completions", {"model": "demo", "prompt": "Hi", "max_tokens": 2})[0])

    loading = stop_the_next(patient)
    (victim,) = runners(e)
    victim.kill()
    stopped = loading()
    try:
        for node in patient:  # what was known as lost is known as on its way back
            wait_until(lambda node=node: node.topology()["instances"][0]["state"] == "loading", 30, node.log)
        asking = [threading.Thread(target=ask, args=(node,)) for node in (d, e)]
        for one in asking:
            one.start()
        time.sleep(0.5)
    finally:
        stopped.resume()
    for one in asking:
        one.join()
    assert answers == [200, 200]
    assert [one["id"] for one in d.topology()["instances"]] == [made["id"]]
    delete(d, made["id"])


def test_what_is_asked_while_a_node_is_drained_is_answered_at_once(patient: list[NodeProcess]) -> None:
    """The ring serves until its successors are loaded; one that is deleted meanwhile does not come back."""
    d, e = patient
    status, made = place(d, nodes=["d", "e"])
    assert status == 200, made
    drained: list[Any] = []

    def drain() -> None:
        drained.append(d.request("POST", "/v1/nodes/e/drain")[1])

    loading = stop_the_next(patient)
    draining = threading.Thread(target=drain)
    draining.start()
    stopped = loading()
    try:
        for node in patient:
            assert answer(node, max_tokens=2)[1]["usage"]["completion_tokens"] == 2
            assert [one["state"] for one in node.topology()["instances"]] == ["ready"]
        assert not drained
        delete(e, made["id"])
    finally:
        stopped.resume()
    draining.join()
    assert drained[0]["moved"] == []
    assert [*drained[0]["failed"]] == [made["id"]]
    wait_until(lambda: not any(runners(node) or node.topology()["instances"] for node in patient), 30)
    assert d.request("POST", "/v1/nodes/e/drain", {"undo": True})[0] == 200


def test_a_spare_takes_over_without_loading(trio: list[NodeProcess], undisturbed: str) -> None:
    """The layers of a lost stage are on another node already."""
    a, _, c = trio
    status, made = place(a, nodes=["c"], spares=True)
    assert status == 200, made
    (spare,) = made["spares"]
    home = next(node for node in trio if node.topology()["active_node_id"] == spare["node_id"])
    assert len(runners(home)) == 1
    (victim,) = runners(c)
    assert answer(a, 40, victim.kill)[0] == undisturbed
    record = a.request("GET", "/v1/recoveries")[1]["data"][-1]
    assert (record["instance_id"], record["epoch"], record["loaded"]) == (made["id"], 2, [])
    assert rings(a) == [[spare["node_id"]]]
    clear(trio)


@pytest.mark.soak
def test_two_nodes_at_once_leave_one_that_goes_on(trio: list[NodeProcess], undisturbed: str, tmp_path: Path) -> None:
    """Head and follower are killed with their nodes in the middle of an answer: the third one has it all."""
    with nodes(
        tmp_path / "home", *(["--node-id", name, "--memory-limit", "2GiB", "--reproducible", "-v"] for name in "xyz")
    ) as (x, y, z):
        status, made = place(x, nodes=["z", "y"])
        assert status == 200, made

        def kill() -> None:
            for node in (y, z):
                os.kill(node.process.pid, signal.SIGKILL)

        text, last = answer(x, 40, kill)
        assert (text, last["usage"]["completion_tokens"]) == (undisturbed, TOKENS)
        wait_until(lambda: rings(x) == [["x"]], 5, x.log)


@pytest.mark.soak
def test_where_runners_die_while_they_load_another_node_takes_over(trio: list[NodeProcess], undisturbed: str) -> None:
    """The stage's own node is asked first, and not for ever."""
    a, _, c = trio
    status, made = place(a, nodes=["c", "b"])
    assert status == 200, made
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.02):
            for one in runners(c):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()

    killing = threading.Thread(target=kill)
    try:
        assert answer(a, 40, killing.start)[0] == undisturbed
    finally:
        over.set()
        killing.join()
    assert rings(a) == [["a", "b"]]
    clear(trio)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("engine", "model"),
    [
        pytest.param("tinygrad", "demo", marks=pytest.mark.engine_tinygrad),
        *(pytest.param("mlx", family, marks=pytest.mark.engine_mlx) for family in HYBRIDS),
    ],
)
def test_other_engines_and_recurrent_layers_go_on_to_the_same_bytes(engine: str, model: str, tmp_path: Path) -> None:
    """The follower's runner, the head's, then the follower with its node are killed early and late in an answer."""
    if model != "demo":
        shutil.copy(DEMO / "tokenizer.json", make_checkpoint(model, tmp_path).rename(tmp_path / model))
    options = ["--memory-limit", "2GiB", "--reproducible", "-v", "--inference-engine", engine]
    changes: dict[str, Any] = {"model": model, "prompt": [(7 * i) % 90 + 20 for i in range(60)], "max_tokens": 80}
    with nodes(
        tmp_path / "home", *(["--node-id", name, "--models-dir", str(tmp_path), *options] for name in "abc")
    ) as (a, b, c):
        status, made = place(a, model=model, nodes=["b", "c"])
        assert status == 200, made
        wanted = answer(a, **changes)
        epoch = 1
        for node in (c, b):
            for at in (1, 40):
                (victim,) = runners(node)
                assert answer(a, at, victim.kill, **changes)[0] == wanted[0]
                epoch += 1
                assert a.request("GET", "/v1/recoveries")[1]["data"][-1]["epoch"] == epoch
        assert answer(a, 40, c.kill, **changes)[0] == wanted[0]
        assert rings(a) == [["b", "a"]]


def test_what_is_deleted_is_not_brought_back(trio: list[NodeProcess]) -> None:
    """An instance that a user takes down in the middle of an answer stays down; the answer's own call places another
    one, as any request does."""
    a, _, _ = trio
    status, made = place(a, nodes=["c", "b"])
    assert status == 200, made
    text, last = answer(a, 40, lambda: delete(a, made["id"]))
    assert last["usage"]["completion_tokens"] == TOKENS
    assert made["id"] not in [one["id"] for one in a.topology()["instances"]]
    assert text
    clear(trio)
