"""Real nodes on a machine that is short of memory, as `--min-free-memory` makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.harness import NodeProcess, nodes, wait_until

ALONE = ("--discovery-module", "none")
ASK = {"model": "demo", "prompt": "Once upon a time there was a node " * 4, "max_tokens": 4, "temperature": 0}


def memory(node: NodeProcess) -> dict[str, Any]:
    row: dict[str, Any] = node.request("GET", "/v1/router/stats")[1]["memory"]
    return row


def cached(node: NodeProcess) -> int:
    status, answer = node.request("POST", "/v1/completions", ASK)
    assert status == 200, answer
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


@pytest.mark.engine_mlx
def test_low_memory_keeps_nothing_and_serves_on(tmp_path: Path) -> None:
    """Of two equal prompts the second is computed again, where it is found otherwise."""
    floor = int(psutil.virtual_memory().available * 0.7)  # low from 1.4 times of what is free on
    with nodes(tmp_path / "low", (*ALONE, "--min-free-memory", str(floor))) as (node,):
        wait_until(lambda: memory(node)["level"] == "low", 10, lambda: memory(node))
        assert (cached(node), cached(node)) == (0, 0)
        assert "memory is low, what is kept for later is given up" in node.log()


def test_without_memory_nothing_is_begun(tmp_path: Path) -> None:
    """Requests get a 503 with Retry-After, a model finds no room, and status, health and metrics say why."""
    with nodes(tmp_path / "out", (*ALONE, "--min-free-memory", "100TiB")) as (node,):
        wait_until(lambda: memory(node)["level"] == "critical", 10, lambda: memory(node))
        status, answer = node.request("POST", "/v1/completions", ASK)
        assert (status, answer["error"]["code"]) == (503, "low_memory")
        assert "--min-free-memory" in answer["error"]["message"]
        assert node.request("GET", "/health") == (503, {**node.request("GET", "/health")[1], "status": "low_memory"})
        status, answer = node.request("POST", "/v1/instances", {"model": "demo"})
        assert (status, answer["error"]["code"]) == (503, "low_memory"), answer
        (shown,) = node.topology()["nodes"].values()
        assert shown["memory_free"] == 0  # so that no peer places anything here
