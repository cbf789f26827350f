"""One machine, real daemons: ids, ports, keys, how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from exo_node.cluster.keys import ClusterKey
from exo_node.config import Settings
from exo_node.daemon import Daemon
from exo_node.transport.generated.exo.v1 import node_pb2
from tests.integration.harness import ROOT, NodeProcess, nodes, wait_until
from tests.integration.test_lifecycle import runners


def exo(home: Path, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "exo_node", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, "EXO_HOME": str(home)},
    )


def test_two_daemons_of_one_machine_share_the_key_and_keep_their_ids(tmp_path: Path) -> None:
    """A second `exo` takes its own id and port and finds the first by itself; restarted, both have the same ids."""
    home = tmp_path / "home"
    with nodes(home, [], []) as cluster:
        first = {node.node_id for node in cluster}
        assert len(first) == 2
        assert len({node.api for node in cluster}) == 2
        assert all(f"exo node {node.node_id} ready" in node.log() for node in cluster)
    with nodes(home, [], []) as cluster:
        assert {node.node_id for node in cluster} == first


def test_a_taken_port_is_an_error_when_asked_for_and_a_detour_when_not(tmp_path: Path) -> None:
    """`--api-port` of a taken port: one line, status 2. The default port taken: a free one, printed."""
    home = tmp_path / "home"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = exo(home, "serve", "--api-port", str(port))
        assert done.returncode == 2
        assert str(port) in done.stderr
        assert "Traceback" not in done.stderr
        done = exo(home, "serve", "--api-port", "0", "--node-port", str(port))
        assert done.returncode == 2
        assert str(port) in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_sigterm_ends_a_daemon_cleanly(tmp_path: Path) -> None:
    """Exit status 0, no run file left, runners gone."""
    node = NodeProcess(tmp_path / "home").wait_ready()
    answer = node.client().chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Hello"}], max_tokens=4
    )
    assert answer.choices[0].message.content
    held = runners(node)
    assert held
    assert node.stop() == 0
    assert list((tmp_path / "home" / "run").glob("*.json")) == []
    assert not any(psutil.pid_exists(runner.pid) and runner.status() != "zombie" for runner in held)


def test_a_killed_daemon_takes_its_runners_with_it(tmp_path: Path) -> None:
    """`kill -9` of the daemon: its runners end by themselves."""
    node = NodeProcess(tmp_path / "home").wait_ready()
    node.client().chat.completions.create(model="demo", messages=[{"role": "user", "content": "Hi"}], max_tokens=2)
    held = psutil.Process(node.process.pid).children()
    assert held
    node.kill()
    wait_until(lambda: not any(runner.is_running() and runner.status() != "zombie" for runner in held), 5)


def test_a_killed_runner_is_replaced(tmp_path: Path) -> None:
    """A runner that dies while nobody asks: its instance is brought back, and the next answer is the same."""
    node = NodeProcess(tmp_path / "home", "-v").wait_ready()
    try:
        client = node.client()
        ask = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}
        before = client.chat.completions.create(**ask).choices[0].message.content  # type: ignore[call-overload]
        (runner,) = runners(node)
        os.kill(runner.pid, signal.SIGKILL)
        wait_until(lambda: serving(node) == [2], 20, node.log)
        after = client.chat.completions.create(**ask).choices[0].message.content  # type: ignore[call-overload]
        assert after == before
    finally:
        node.stop()


def serving(node: NodeProcess) -> list[int]:
    """The epochs of the instances that are ready."""
    return [one["epoch"] for one in node.topology()["instances"] if one["state"] == "ready"]


def test_a_killed_node_is_gone_and_its_ring_goes_on(tmp_path: Path) -> None:
    """`kill -9` of a member: the survivors drop it and have its part loaded elsewhere; both serve requests."""
    with nodes(tmp_path / "home", [], [], []) as cluster:
        body = {"model": "demo", "nodes": [node.node_id for node in cluster]}
        status, instance = cluster[0].request("POST", "/v1/instances", body)
        assert status == 200, instance
        cluster[1].kill()
        survivors = [cluster[0], cluster[2]]
        for node in survivors:
            node.wait_nodes(2, timeout=5)
            wait_until(lambda node=node: serving(node) == [2], 20, node.topology)
        for node in survivors:
            status, answer = node.request(
                "POST",
                "/v1/chat/completions",
                {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5},
            )
            assert status == 200, answer


def test_nodes_of_other_clusters_never_mix(tmp_path: Path) -> None:
    """Two nodes with keys of their own see each other's announcement and stay apart, even when told to connect."""
    first = NodeProcess(tmp_path / "a", "-v").wait_ready()
    second = None
    try:
        port = first.topology()["nodes"][first.node_id]["grpc_port"]
        second = NodeProcess(tmp_path / "b", "-v", "--peer", f"127.0.0.1:{port}").wait_ready()
        wait_until(lambda: "cluster" in second.log(), 10, second.log)
        for node in (first, second):
            assert list(node.topology()["nodes"]) == [node.node_id]
        assert "Traceback" not in first.log() + second.log()
    finally:
        first.stop()
        if second is not None:
            second.stop()


def test_a_join_code_makes_one_cluster(tmp_path: Path) -> None:
    """`exo key` on one machine, `exo join CODE` on the other, and they are one cluster."""
    code = exo(tmp_path / "a", "key").stdout.strip().splitlines()[-1].split()[-1]
    joined = exo(tmp_path / "b", "join", code)
    assert joined.returncode == 0, joined.stderr
    first = NodeProcess(tmp_path / "a").wait_ready()
    second = NodeProcess(tmp_path / "b").wait_ready()
    try:
        first.wait_nodes(2)
        second.wait_nodes(2)
    finally:
        first.stop()
        second.stop()
    mistyped = exo(tmp_path / "b", "join", code[:-1] + ("0" if code[-1] != "0" else "1"))
    assert mistyped.returncode == 2
    assert len(mistyped.stderr.strip().splitlines()) == 1


def test_the_peers_file_and_peer_flag_work_without_multicast(tmp_path: Path) -> None:
    """`--discovery-module manual` with exo's file, and `none` with --peer; each of the two is told of the other."""
    home = tmp_path / "home"
    with nodes(home, ["--discovery-module", "none", "-v"]) as (first,):
        port = first.topology()["nodes"][first.node_id]["grpc_port"]
        peers = tmp_path / "peers.json"
        peers.write_text(
            json.dumps({"peers": {first.node_id: {"address": "127.0.0.1", "port": port, "device_capabilities": {}}}})
        )
        second = NodeProcess(home, "--discovery-module", "manual", "--discovery-config-path", str(peers), "-v")
        third = NodeProcess(home, "--discovery-module", "none", "--peer", f"127.0.0.1:{port}", "-v")
        try:
            second.wait_ready()
            third.wait_ready()
            for node in (first, second, third):  # the first meets both, and tells each of the other
                node.wait_nodes(3)
        except BaseException:
            for node in (second, third):
                print(f"--- {node.node_id}\n{node.log()[-5000:]}")
            raise
        finally:
            second.stop()
            third.stop()


async def test_what_a_runner_has_held_is_told_with_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free memory may be read a second late otherwise; but whoever brings a ring back asks within milliseconds, and
    would find no room for a model that fills more than half of it."""
    free = [10 * 2**30]
    monkeypatch.setattr("exo_node.machine.host_memory", lambda: (16 * 2**30, free[0]))
    settings = Settings(home=tmp_path, discovery_module="none", min_free_memory=0)
    daemon = Daemon(settings, ClusterKey(bytes(32)), "n")
    await daemon.host.reserve_shard(
        node_pb2.ReserveShardRequest(instance_id="i", bytes=2**30, device="CPU", lease_ms=60_000)
    )
    daemon.host._ledger.commit("i", 0, until=float("inf"))
    before = daemon.describe().memory_free
    free[0] = 14 * 2**30
    daemon.host._runner_ended(("i", 0), -9)
    assert daemon.describe().memory_free == before + 4 * 2**30
    daemon.routing.store.close()
