"""Thousands of requests leave nothing behind: `pytest -m soak tests/integration/test_soak.py` (minutes)."""

from __future__ import annotations

import http.client
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.harness import NodeProcess, nodes, wait_until

REQUESTS = int(os.environ.get("EXO_SOAK_REQUESTS", "2000"))
SETTLED = min(300, REQUESTS // 2)  # requests after which memory is taken as what it is to be
AT_ONCE = 8
ALLOWED_MB = 16  # what two measurements of a process at rest may differ by: allocators keep and give back pages


def ask(node: NodeProcess, number: int) -> str:
    """One short chat; every third caller hangs up in the middle. Returns how it ended."""
    chance = random.Random(number)
    host, port = node.api.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    body: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": f"What is exo? {chance.random()}" * chance.randint(1, 6)}],
        "max_tokens": chance.randint(1, 40),
        "stream": number % 3 < 2,
        "seed": number,
    }
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        if number % 3 == 0:
            for _ in range(chance.randint(1, 4)):
                response.readline()
            return "left"
        response.read()
        return "read"
    finally:
        connection.close()


def measured(node: NodeProcess) -> dict[str, int]:
    """RSS of the daemon and of its runner, and the runner's KV bytes, once nothing runs or waits."""
    instance = node.request("GET", "/v1/instances")[1]["data"][0]["id"]

    def head() -> dict[str, Any]:
        found: dict[str, Any] = node.request("GET", f"/v1/instances/{instance}/stats")[1]["stages"][0]
        return found

    wait_until(lambda: head()["running"] == head()["waiting"] == 0, 60, head)
    stats = head()
    return {
        "daemon": psutil.Process(node.process.pid).memory_info().rss,
        "runner": stats["rss_bytes"],
        "kv": stats["kv_bytes"],
    }


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_requests_and_cancels_leave_memory_flat(tmp_path: Path) -> None:
    """2,000 short requests, a third of them left in the middle: RSS and KV bytes stay what they were after 300."""
    arguments = ["--discovery-module", "none", "--max-sequences", str(AT_ONCE), "--max-context", "512"]
    with nodes(tmp_path / "home", arguments) as (node,), ThreadPoolExecutor(AT_ONCE) as pool:
        endings = list(pool.map(lambda number: ask(node, number), range(SETTLED)))
        before = measured(node)
        endings += pool.map(lambda number: ask(node, number), range(SETTLED, REQUESTS))
        after = measured(node)
    print(json.dumps({"requests": REQUESTS, "before": before, "after": after}))
    assert endings.count("left") == len(range(0, REQUESTS, 3))
    assert after["kv"] == before["kv"]
    for process in ("daemon", "runner"):
        assert after[process] - before[process] < ALLOWED_MB * 2**20, (process, before, after)
