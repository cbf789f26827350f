"""Half an hour of load under random kills: `pytest -s -m soak tests/chaos/test_soak.py` (`EXO_SOAK_MINUTES`: shorter).

Rounds of some 20 s: clients of every dialect ask, runners and nodes are killed or stopped, then all is healed, the
clients pause, and what every process holds is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.chaos.cells import API_NODE
from tests.chaos.fleet import Fleet, load, wait
from tests.chaos.hosts import Hosts, hosts_or_reason
from tests.chaos.load import Load

MINUTES = float(os.environ.get("EXO_SOAK_MINUTES", "30"))
SEED = int(os.environ.get("EXO_SOAK_SEED", "0"))
NODES = "abc"
CLIENTS = 6
ROUND_S = 15.0
SETTLED_S = 40.0  # after which a process is to hold what it holds
REST_S = 6  # looks, a second apart: daemons close what they need no more every five
# What two measurements of a process at rest may differ by: allocators keep and give back pages, pools their threads.
ALLOWED = {"rss_mb": 24.0, "files": 8, "threads": 8}
Held = dict[str, float]


class Ledger:
    """What each process holds over its life, by (what it is, process id)."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, int], list[tuple[float, Held]]] = {}

    def measure(self, fleet: Fleet) -> None:
        """All daemons and runners: the least that each holds for a while in which nothing is asked."""
        named: list[tuple[str, psutil.Process]] = []
        for letter, node in fleet.nodes.items():
            named.append((f"daemon {letter}", psutil.Process(node.process.pid)))
            named += [(f"runner {letter}", one) for one in node.runners()]
        looks: list[list[Held]] = [[] for _ in named]
        for _ in range(REST_S):
            time.sleep(1)
            for (_, process), seen in zip(named, looks, strict=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # a runner that was not needed any more
                    seen.append(_held(process))
        for (name, process), seen in zip(named, looks, strict=True):
            if len(seen) == REST_S and (age := time.time() - process.create_time()) >= SETTLED_S:
                least = {what: min(one[what] for one in seen) for what in ALLOWED}
                self.of.setdefault((name, process.pid), []).append((age, least))

    def grown(self) -> Iterator[tuple[str, float, Held, Held]]:
        """(process, its seconds between them, first, last) of those that were measured twice."""
        for (name, pid), rows in self.of.items():
            if len(rows) > 1:
                yield f"{name} {pid}", rows[-1][0] - rows[0][0], rows[0][1], rows[-1][1]


def _held(process: psutil.Process) -> Held:
    return {
        "rss_mb": round(process.memory_info().rss / 2**20, 1),
        "files": process.num_fds(),
        "threads": process.num_threads(),
    }


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    hosts = hosts_or_reason()
    try:
        with Fleet(tmp_path, "mlx", "exact", hosts if isinstance(hosts, Hosts) else None, letters=NODES) as found:
            yield found
    finally:
        if isinstance(hosts, Hosts):
            hosts.close()


@pytest.mark.soak
@pytest.mark.engine_mlx
@pytest.mark.timeout(int(MINUTES * 60) + 900)
def test_kills_and_cancels_lose_no_stream_and_leave_nothing(fleet: Fleet) -> None:
    """Streams, plain answers and cancels of five dialects: none is lost, and processes that live do not grow."""
    chance = random.Random(SEED)
    clients, ledger = Load(fleet, CLIENTS, SEED), Ledger()
    _ring(fleet, chance)
    clients.learn()
    kills, end = 0, time.monotonic() + 60 * MINUTES
    try:
        while time.monotonic() < end:
            clients.start()
            kills += _round(fleet, chance)
            clients.pause()
            fleet.heal(revive=chance.random() < 0.5, clear=False)
            _ring(fleet, chance)
            ledger.measure(fleet)
            print(
                json.dumps({"kills": kills, "ended": clients.counts.ended, "lost": len(clients.counts.lost)}),
                flush=True,
            )
    finally:
        clients.pause()
    grown = list(ledger.grown())
    for name, seconds, first, last in grown:
        print(json.dumps({"process": name, "seconds": round(seconds), "first": first, "last": last}))
    print(json.dumps({"kills": kills, "machine": load(), "recoveries": len(fleet.recoveries())}))
    assert not clients.counts.lost, "\n".join(clients.counts.lost[:20])
    assert any(name.startswith(f"daemon {API_NODE}") for name, *_ in grown) or MINUTES < 2
    for name, _, first, last in grown:
        for what, most in ALLOWED.items():
            assert last[what] - first[what] <= most, (name, what, first, last)


def _ring(fleet: Fleet, chance: random.Random) -> None:
    """A ring of two or three nodes: the one that there is where it is one, else a new one."""

    def settled() -> bool:
        return all(one["state"] == "ready" for one in fleet.api.topology()["instances"])

    wait(settled, lambda: fleet.api.topology()["instances"])
    held = fleet.api.topology()["instances"]
    if not any(len({shard["node_id"] for shard in one["shards"]}) > 1 for one in held):
        fleet.clear()
        order = chance.sample(NODES, chance.choice((2, 3)))
        status, instance = fleet.place("".join(order), "demo")
        assert status == 200, instance


def _round(fleet: Fleet, chance: random.Random) -> int:
    """Load for a while, with one to three disturbances of one kind each; how many there were."""
    count = chance.choice((1, 2, 3))
    for _ in range(count):
        time.sleep(chance.uniform(0.3, 0.6) * ROUND_S / count)
        letter = chance.choice(NODES)
        runners = fleet.nodes[letter].runners()
        how = chance.choice(("kill", "kill", "stop"))
        if letter == API_NODE or (runners and chance.random() < 0.6):
            fleet.strike(how, runners, letter)
        elif fleet.nodes[letter].process.poll() is None:
            fleet.strike(how, fleet.processes(letter, runner_only=False), letter)
        time.sleep(chance.uniform(0.3, 0.4) * ROUND_S / count)
        if chance.random() < 0.5:
            fleet.heal(revive=True, clear=False)
    return count
