"""Many requests in one."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from exo_node.api.batch import parse_batch
from exo_node.errors import InvalidRequest
from exo_node.routing.call import Call, Reply, UpstreamError
from tests.unit.api.scripted import END, ScriptedBackend, serve_api, until
from tests.unit.api.scripted_routing import ScriptedRouting, whole


def item(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "model": "gpt-4o", **fields}


class Counting(ScriptedRouting):
    """Answers what was said, the later asked the sooner; counts how many are served at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.hold: asyncio.Event | None = None

    async def serve(self, call: Call) -> Reply:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            text = call.body["messages"][0]["content"]
            if self.hold is not None:
                await self.hold.wait()
            if text == "fail":
                raise UpstreamError("openai is busy", "rate_limited")
            if text == "bug":
                raise KeyError("secret")
            await asyncio.sleep(0.02 / (1 + int(text)))
            return whole({"said": text, "model": call.model})
        finally:
            self.now -= 1


async def batch(routing: ScriptedRouting, body: Any) -> tuple[int, Any]:
    async with (
        serve_api(ScriptedBackend([END]), routing=routing) as url,
        aiohttp.ClientSession(url) as http,
        http.post("/v1/batch/completions", json=body) as answer,
    ):
        return answer.status, await answer.json()


async def test_order_and_concurrency() -> None:
    """Answers stand where their requests stood, whoever was first; never more at once than wanted."""
    routing = Counting()
    body = {"requests": [item(str(i), model=None) for i in range(10)], "model": "m", "max_concurrency": 3}
    status, answer = await batch(routing, body)
    assert (status, answer["counts"]) == (200, {"total": 10, "succeeded": 10, "failed": 0})
    assert [row["response"]["said"] for row in answer["data"]] == [str(i) for i in range(10)]
    assert {row["response"]["model"] for row in answer["data"]} == {"m"}
    assert answer["data"][3]["index"] == 3
    assert answer["data"][3]["headers"]["x-exo-backend"] == "scripted"
    assert routing.most == 3


async def test_errors_are_each_ones_own() -> None:
    """A refused, a wrong and a broken request fail alone, with OpenAI's error objects."""
    wrong = item("1", temperature=9)
    status, answer = await batch(
        Counting(), {"requests": [item("1"), item("fail"), wrong, item("bug"), item("1", stream=True), "x", {"n": 1}]}
    )
    assert status == 200
    assert [row["status"] for row in answer["data"]] == [200, 429, 400, 500, 400, 400, 400]
    assert answer["data"][2]["error"]["param"] == "temperature"
    assert "secret" not in str(answer)
    assert answer["counts"]["failed"] == 6


async def test_who_leaves_cancels_all() -> None:
    """A client that hangs up frees every backend."""
    routing = Counting()
    routing.hold = asyncio.Event()
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        task = asyncio.create_task(
            http.post("/v1/batch/completions", json={"requests": [item("1"), item("2")]}).__aenter__()
        )
        await until(lambda: routing.now == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: routing.now == 0)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "requests"),
        ({"requests": []}, "requests"),
        ({"requests": {}}, "requests"),
        ({"requests": [1] * 1001}, "requests"),
        ({"requests": [1], "max_concurrency": 0}, "max_concurrency"),
        ({"requests": [1], "concurrency": 5}, "concurrency"),
    ],
)
def test_refused(body: dict[str, Any], param: str) -> None:
    """What is wrong with the batch itself fails it as a whole."""
    with pytest.raises(InvalidRequest) as caught:
        parse_batch(body)
    assert caught.value.param == param
