"""Requests while memory runs out."""

from __future__ import annotations

import aiohttp
import pytest

from exo_node.api.memory_gate import MEMORY
from tests.unit.api.scripted import END, ScriptedBackend, serve_whole
from tests.unit.api.test_leaving import PATHS


@pytest.mark.parametrize("path", PATHS)
async def test_no_request_is_begun_while_memory_runs_out(path: str) -> None:
    """A 503 with Retry-After that says why; probes see it; it ends with the shortage."""
    async with serve_whole(ScriptedBackend([END])) as (url, api), aiohttp.ClientSession(url) as http:
        watch = api.app[MEMORY]
        watch.floor = 400 * 2**20
        watch.look(300 * 2**20)
        async with http.post(path, json=PATHS[path]) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert "300 MiB of memory are free, 400 MiB are to stay free" in await answer.text()
        async with http.get("/health") as answer:
            assert (answer.status, (await answer.json())["status"]) == (503, "low_memory")
        async with http.get("/v1/router/stats") as answer:
            assert (await answer.json())["memory"] == {
                "level": "critical",
                "free": 300 * 2**20,
                "min_free": 400 * 2**20,
            }
        async with http.post("/v1/responses/resp_1/cancel") as answer:
            assert answer.status == 404  # ending things always works
        watch.look(700 * 2**20)
        async with http.post(path, json={**PATHS[path], "stream": False}) as answer:
            assert answer.status == 200, "only low: requests are served"
