"""The benchmark's chat."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from exo_node.api.exo.bench import Watch, bench_body
from exo_node.errors import InvalidRequest
from exo_node.types import TokenDelta, Usage
from tests.unit.api.scripted import ScriptedBackend, ScriptedCluster, Step, serve_api

CHAT: Any = {
    "model": "demo",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 3,
    "logprobs": False,
    "use_prefix_cache": False,
}
STEPS: list[Step] = [
    TokenDelta("a", (1,)),
    0.02,
    TokenDelta("b", (2,)),
    TokenDelta("c", (3,), (), "length", Usage(5, 3)),
]


async def test_bench() -> None:
    """The ring is asked, end-of-text banned; the answer has its stats, a stream has them as the last comment."""
    cluster, backend = ScriptedCluster(), ScriptedBackend(STEPS)
    async with serve_api(backend, cluster) as url, aiohttp.ClientSession(url) as http:
        async with http.post("/bench/chat/completions", json=CHAT) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, "model_not_found")
        await cluster.place("demo", min_nodes=1, nodes=(), engines=())
        async with http.post("/bench/chat/completions", json={**CHAT, "model": "exo-demo"}) as answer:
            whole = await answer.json()
        assert whole["choices"][0]["message"]["content"] == "abc"
        assert whole["choices"][0]["finish_reason"] == "length"
        stats = whole["generation_stats"]
        assert (stats["prompt_tokens"], stats["generation_tokens"]) == (5, 3)
        assert stats["prompt_tps"] > 0
        assert 0 < stats["generation_tps"] <= 2 / 0.02
        async with http.post("/v1/bench/chat/completions", json={**CHAT, "stream": True}) as answer:
            text = await answer.text()
        *events, comment, done, _ = text.split("\n\n")
        assert done == "data: [DONE]"
        assert json.loads(comment.removeprefix(": generation_stats "))["generation_tokens"] == 3
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "abc"
        async with http.post("/bench/chat/completions", json={**CHAT, "use_prefix_cache": True}) as answer:
            assert answer.status == 200
    assert all(request.ignore_eos for request in backend.requests)
    first, second, third = (request.client for request in backend.requests)
    assert "" not in (first, second)  # each a client of its own, who finds no prompt of others
    assert (first != second, third) == (True, "")


@pytest.mark.parametrize(
    "changes", [{"logprobs": True}, {"tools": [{}]}, {"n": 2}, {"use_prefix_cache": "no"}, {"logprobs": 1}, {"exo": {}}]
)
def test_wrong_bodies(changes: dict[str, Any]) -> None:
    """What would be measured otherwise is refused."""
    with pytest.raises(InvalidRequest):
        bench_body({**CHAT, **changes})


def test_nothing_to_divide() -> None:
    """An answer of one token has no rate."""
    watch = Watch(0.0)
    watch.see({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": None})
    watch.see({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    assert watch.stats(7)["generation_tps"] == 0.0
    assert watch.stats(7)["peak_memory_usage"] == {"inBytes": 7}
