#!/usr/bin/env python3
"""How soon a death, a stop and a cut cable are noticed, while engines are busy decoding.

    scripts/bench/detection.py [--runs N] [--engine E] [--silence SECONDS] [--only PART ...]

- `runners`: three runner processes, four streams. One is killed or stopped; every caller is told.
- `nodes`: three nodes, an instance over all, four streams. A daemon is killed or stopped: both others say that it is
  gone. A runner is killed: its own daemon says so.
- `link`: two nodes in network namespaces (where they may be made), the cable cut: either says that the other is gone,
  and so does the runner before the cut, or its daemon for it.

One JSON line: for each case milliseconds until the last of those who wait knows (p50, p99, all). Bars for p99: 200 ms
for kills, 1.2 times the silence for stops and cuts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench_nodes import ROOT, NodeProcess, nodes, percentile, place

from exo_node.errors import ExoError
from exo_node.transport.ring_client import RingClient
from tests.integration import runners
from tests.integration.harness import wait_until

DEMO = ROOT / "exo_node" / "models" / "demo"
STREAMS = 4
STAGES = 3
KILL_BAR_MS = 200.0
SLACK = 1.2
STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) ")


# ---- runners ---------------------------------------------------------------------------------------------------------


async def told(client: RingClient, number: int, going: asyncio.Event, context: int) -> float:
    """When a stream that is under way fails, by this process's clock."""
    prompt = tuple((number * 37 + index) % 250 for index in range(20))
    count = 0
    try:
        while True:  # anew when the context is full
            count += 1
            async for delta in client.generate(runners.request(prompt, context - 21, f"{number}-{count}")):
                if delta.index > 4:
                    going.set()
    except ExoError:
        return time.monotonic()


async def runner_case(engine: str, silence: float, stage: int, signum: signal.Signals) -> float:
    """Seconds until all callers are told."""
    config = json.loads((DEMO / "config.json").read_text())
    layers, context = int(config["num_hidden_layers"]), 512
    cut = [layers * at // STAGES for at in range(STAGES + 1)]
    fields = {"engine": engine, "context": context, "kv_tokens": runners.SLOTS * context, "speculation": False}
    started = await asyncio.gather(
        *(
            runners.start(
                runners.config(DEMO, at, STAGES, **fields)
                | {"shard": {"start_layer": cut[at], "end_layer": cut[at + 1], "n_layers": layers}}
            )
            for at in range(STAGES)
        )
    )
    made = runners.Ring(list(started), [runners.dial(one.address, silence_s=silence) for one in started])
    try:
        for at in reversed(range(STAGES)):
            message = made.configuration(at, 1)
            message.context, message.wire_dtype, message.silence_ms = context, "float32", round(silence * 1000)
            await made.clients[at].configure(message)
        going = [asyncio.Event() for _ in range(STREAMS)]
        streams = [asyncio.create_task(told(made.clients[0], at, going[at], context)) for at in range(STREAMS)]
        for event in going:
            await event.wait()
        await asyncio.sleep(random.uniform(0.0, 0.3))
        begun = time.monotonic()
        made.runners[stage].process.send_signal(signum)
        return max(await asyncio.gather(*streams)) - begun
    finally:
        for client in made.clients:
            await client.close()
        for one in made.runners:
            with contextlib.suppress(ProcessLookupError):
                one.process.kill()
        await asyncio.gather(*(one.process.wait() for one in made.runners))


def by_runners(options: argparse.Namespace) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, stage, signum in (
        ("follower_runner_kill", 1, signal.SIGKILL),
        ("head_runner_kill", 0, signal.SIGKILL),
        ("follower_runner_stop", 1, signal.SIGSTOP),
        ("head_runner_stop", 0, signal.SIGSTOP),
    ):
        found[name] = [
            asyncio.run(runner_case(options.engine, options.silence, stage, signum)) for _ in range(options.runs)
        ]
    return found


# ---- nodes -----------------------------------------------------------------------------------------------------------


class Talk:
    """Streams through a node's API that begin anew for as long as they are wanted, whatever becomes of them."""

    def __init__(self, node: NodeProcess, model: str, count: int = STREAMS) -> None:
        self._node, self._model = node, model
        self._over = threading.Event()
        self._flowing = [threading.Event() for _ in range(count)]
        self._threads = [threading.Thread(target=self._run, args=(one,), daemon=True) for one in self._flowing]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Until all streams flow."""
        for one in self._flowing:
            one.clear()
        for one in self._flowing:
            if not one.wait(60):
                raise SystemExit(f"no stream:\n{self._node.log()[-3000:]}")

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, flowing: threading.Event) -> None:
        client = self._node.client()
        while not self._over.is_set():
            with contextlib.suppress(Exception):  # the very thing that is measured
                for _ in client.completions.create(
                    model=self._model, prompt="Once upon a time", max_tokens=400, temperature=0, stream=True
                ):
                    flowing.set()
                    if self._over.is_set():
                        return


def said(node: NodeProcess, what: str, since: float) -> float | None:
    """When a node's log said so, at or after `since` (both in seconds since 1970)."""
    for line in node.log().splitlines():
        stamp = STAMP.match(line)
        if stamp and what in line:
            when = datetime.datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()
            if when >= since - 0.001:  # the log has milliseconds
                return when
    return None


def broken(node: NodeProcess, since: float) -> float | None:
    """When a ring was first known there to have lost its stage 1: its own runner says so, or the daemon, which then
    ends the epoch before the runner has waited for its own silence."""
    found = [said(node, what, since) for what in ("stage 1 of the ring", "lost stages [1]")]
    return min((when for when in found if when is not None), default=None)


def until_said(listeners: list[tuple[NodeProcess, str]], act: Callable[[], Any]) -> float:
    """Seconds from the act until the last of these nodes has said its words."""
    time.sleep(random.uniform(0.0, 0.5))  # anywhere between two beats
    begun = time.time()
    act()

    def all_said() -> bool:
        return all(said(node, what, begun) is not None for node, what in listeners)

    wait_until(all_said, 30, lambda: "\n".join(node.log()[-1500:] for node, _ in listeners))
    return max(said(node, what, begun) or 0.0 for node, what in listeners) - begun


def runner_pid(node: NodeProcess) -> int:
    import psutil

    for child in psutil.Process(node.process.pid).children():
        with contextlib.suppress(psutil.Error):
            if "exo_node.ring.runner" in child.cmdline():
                return child.pid
    raise SystemExit(f"{node.node_id} has no runner:\n{node.log()[-3000:]}")


def by_nodes(options: argparse.Namespace) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in ("daemon_kill", "daemon_stop", "runner_kill_own_daemon")}
    arguments = ["--inference-engine", options.engine, "--peer-timeout", str(options.silence), "-v"]
    with tempfile.TemporaryDirectory() as folder, nodes(Path(folder) / "home", *([arguments] * 3)) as cluster:
        for name, times in found.items():
            for _ in range(options.runs):
                first, second, victim = cluster
                place(first, "demo", [one.node_id for one in cluster])
                talk = Talk(first, "demo")
                talk.wait()
                gone = f"node {victim.node_id} is gone"
                if name == "runner_kill_own_daemon":
                    pid = runner_pid(victim)
                    seconds = until_said([(victim, "ended: killed")], lambda pid=pid: os.kill(pid, signal.SIGKILL))  # type: ignore[misc]
                else:
                    signum = signal.SIGKILL if name == "daemon_kill" else signal.SIGSTOP
                    pid = victim.process.pid
                    seconds = until_said(
                        [(first, gone), (second, gone)],
                        lambda pid=pid, signum=signum: os.kill(pid, signum),  # type: ignore[misc]
                    )
                times.append(seconds)
                talk.close()
                if name == "daemon_kill":
                    victim.process.wait()
                    cluster[2] = NodeProcess(victim.home, *arguments).wait_ready()
                elif name == "daemon_stop":
                    victim.process.send_signal(signal.SIGCONT)
                for node in cluster:
                    node.wait_nodes(3, 60)
                clear(cluster)
    return found


def clear(cluster: list[NodeProcess]) -> None:
    """Take down every instance; one that is recovering can be later."""

    def cleared() -> bool:
        left = [one["id"] for node in cluster for one in node.request("GET", "/v1/instances")[1]["data"]]
        for instance_id in left:
            cluster[0].request("DELETE", f"/v1/instances/{instance_id}")
        return not left

    wait_until(cleared, 60, lambda: "\n".join(node.log()[-1500:] for node in cluster))


# ---- a cable ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cable() -> Iterator[tuple[Any, Any, str]]:
    """Two hosts and the cable between them: (host, host, the name of the first one's end)."""
    from tests.integration.test_two_hosts import Host, ip

    names = [f"exo-bench-{side}-{os.getpid()}" for side in "ab"]
    ends = [f"xb{side}{os.getpid() % 100000}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for number, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"10.79.0.{number}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
        yield Host(names[0]), Host(names[1]), ends[0]
    finally:
        import subprocess

        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def by_link(options: argparse.Namespace) -> dict[str, list[float]]:
    from tests.integration.test_two_hosts import PHRASE, ip, may_make_namespaces

    if reason := may_make_namespaces():
        print(f"link: left out, {reason}", file=sys.stderr)
        return {}
    found: dict[str, list[float]] = {"link_cut_nodes": [], "link_cut_runner": []}
    arguments = ["--cluster-key", PHRASE, "--inference-engine", options.engine, "-v"]
    arguments += ["--peer-timeout", str(options.silence)]
    with tempfile.TemporaryDirectory() as folder, cable() as (one, other, end):
        started = [host.start(Path(folder) / side, *arguments) for host, side in ((one, "a"), (other, "b"))]
        try:
            for node in started:
                node.wait_ready()
            here, there = started
            for _ in range(options.runs):
                for host, node in ((one, here), (other, there)):
                    wait_until(lambda h=host, n=node: len(h.call(f"{n.api}/v1/topology")["nodes"]) == 2, 60, node.log)
                for left in one.call(f"{here.api}/v1/instances")["data"]:
                    one.call(f"{here.api}/v1/instances/{left['id']}", method="DELETE")
                asked = {"model": "demo", "nodes": [here.node_id, there.node_id], "min_nodes": 2}
                instance = one.call(f"{here.api}/v1/instances", asked)
                if "id" not in instance:
                    raise SystemExit(f"cannot place: {instance}")
                flow = threading.Thread(target=one.call, args=(f"{here.api}/v1/completions", LONG), daemon=True)
                flow.start()
                time.sleep(1.0)
                begun = time.time()
                listeners = [(here, f"node {there.node_id} is gone"), (there, f"node {here.node_id} is gone")]
                cut = ["-n", one.name, "link", "set", end]
                found["link_cut_nodes"].append(until_said(listeners, lambda cut=cut: ip(*cut, "down")))  # type: ignore[misc]
                wait_until(lambda begun=begun: broken(here, begun) is not None, 30, here.log)
                # The cut came up to half a second after `begun`: counted from what the nodes were counted from.
                noticed = broken(here, begun) or 0.0
                last = max(said(node, what, begun) or 0.0 for node, what in listeners)
                found["link_cut_runner"].append(noticed - (last - found["link_cut_nodes"][-1]))
                ip(*cut, "up")
                flow.join()
        finally:
            for node in started:
                node.stop()
    return found


LONG = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 4000, "temperature": 0, "ignore_eos": True}
PARTS: dict[str, Callable[[argparse.Namespace], dict[str, list[float]]]] = {
    "runners": by_runners,
    "nodes": by_nodes,
    "link": by_link,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--engine", default="mlx", choices=("mlx", "tinygrad"))
    parser.add_argument("--silence", type=float, default=2.0)
    parser.add_argument("--only", nargs="*", choices=sorted(PARTS), default=sorted(PARTS))
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    for part in options.only:
        found |= PARTS[part](options)
    cases: dict[str, Any] = {}
    missed = []
    for name, seconds in found.items():
        milliseconds = sorted(round(one * 1000, 1) for one in seconds)
        worst = percentile(milliseconds, 0.99)
        bar = KILL_BAR_MS if "kill" in name else options.silence * 1000 * SLACK
        cases[name] = {
            "p50_ms": statistics.median(milliseconds),
            "p99_ms": worst,
            "bar_ms": bar,
            "n": len(milliseconds),
        }
        cases[name]["all_ms"] = milliseconds
        if worst > bar:
            missed.append(name)
    line = {"bench": "detection", "engine": options.engine, "silence_s": options.silence, "cases": cases}
    print(json.dumps(line | {"load": os.getloadavg()[0], "missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
