"""The Responses API's routes, over real sockets."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exo_node.api.ports import Principal
from exo_node.errors import ContextLengthExceeded, PeerUnavailable
from exo_node.types import TokenDelta, Usage
from tests.unit.api.dialects.responses_events import names, parsed, response
from tests.unit.api.scripted import ScriptedBackend, Step, serve_api, until
from tests.unit.api.scripted_routing import ScriptedRouting, whole

WORDS: list[Step] = [TokenDelta("Hi", (1,)), TokenDelta(" you", (2,), (), "stop", Usage(5, 2, 4))]
HELLO = {"model": "demo", "input": "Hello"}


class Client:
    """Plain HTTP to a node under test."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def __call__(self, method: str, path: str, body: Any = None, key: str = "") -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        async with self.session.request(method, f"{self.url}/v1/responses{path}", json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def stream(self, method: str, path: str, body: Any = None) -> bytes:
        async with self.session.request(method, f"{self.url}/v1/responses{path}", json=body) as answer:
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
            return await answer.read()


@asynccontextmanager
async def node(home: Path, *steps: Step, routing: ScriptedRouting | None = None) -> AsyncIterator[Client]:
    async with (
        serve_api(ScriptedBackend(steps or WORDS), home=home, routing=routing) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Client(session, url)


def stored(home: Path) -> list[str]:
    """The responses that another process finds in the node's database."""
    with closing(sqlite3.connect(next(home.glob("*.db")))) as database:
        return [row[0] for row in database.execute("SELECT id FROM responses")]


async def test_a_response_and_its_life(tmp_path: Path) -> None:
    """It is answered, found again with what it was made from, gone on from, and forgotten; a stream ends the same."""
    async with node(tmp_path) as ask:
        status, first = await ask("POST", "", HELLO)
        assert (status, response(first).output_text) == (200, "Hi you")
        assert await ask("GET", f"/{first['id']}") == (200, first)
        events = parsed(await ask.stream("POST", "", {**HELLO, "stream": True, "previous_response_id": first["id"]}))
        second = events[-1].response
        assert second.previous_response_id == first["id"]
        assert response((await ask("GET", f"/{second.id}"))[1]) == second
        items = (await ask("GET", f"/{second.id}/input_items?order=asc&limit=2"))[1]
        assert [item["content"][0]["text"] for item in items["data"]] == ["Hello", "Hi you"]
        assert items["has_more"] is True
        rest = (await ask("GET", f"/{second.id}/input_items?order=asc&after={items['last_id']}"))[1]
        assert [item["role"] for item in rest["data"]] == ["user"]
        assert (rest["has_more"], rest["first_id"]) == (False, rest["last_id"])
        assert await ask("DELETE", f"/{first['id']}") == (
            200,
            {"id": first["id"], "object": "response", "deleted": True},
        )
        assert (await ask("GET", f"/{first['id']}"))[0] == 404
        assert (await ask("DELETE", f"/{first['id']}"))[0] == 404


async def test_what_is_not_stored(tmp_path: Path) -> None:
    """`store: false` leaves nothing behind, not even a database."""
    async with node(tmp_path / "home") as ask:
        status, made = await ask("POST", "", {**HELLO, "store": False})
        assert (status, made["store"]) == (200, False)
        assert (await ask("GET", f"/{made['id']}"))[0] == 404
    assert not (tmp_path / "home").exists()


async def test_another_keys_response_is_not_there(tmp_path: Path) -> None:
    """Every route takes a response of another key for one that does not exist."""
    backend = ScriptedBackend(WORDS)
    routing = ScriptedRouting(backend)
    routing.keys = {"mine": Principal("k1"), "other": Principal("k2")}
    answer = {"model": "m", "choices": [{"index": 0, "message": {"content": "Yes"}, "finish_reason": "stop"}]}
    routing.replies = [whole(answer)]
    async with node(tmp_path, routing=routing) as ask:
        _, made = await ask("POST", "", HELLO, key="mine")
        path = f"/{made['id']}"
        for method, where in (
            ("GET", path), ("DELETE", path), ("POST", f"{path}/cancel"), ("GET", f"{path}/input_items"),
        ):  # fmt: skip
            assert (await ask(method, where, key="other"))[0] == 404
        status, error = await ask("POST", "", {**HELLO, "previous_response_id": made["id"]}, key="other")
        assert (status, error["error"]["code"]) == (400, "previous_response_not_found")
        assert (await ask("GET", path, key="mine"))[0] == 200


async def test_in_the_background(tmp_path: Path) -> None:
    """It is answered at once, seen as it grows, followed from any event, and there when it is complete."""
    going = asyncio.Event()
    async with node(tmp_path, WORDS[0], going, WORDS[1]) as ask:
        _, queued = await ask("POST", "", {**HELLO, "background": True})
        assert (queued["status"], queued["output"]) == ("queued", [])
        assert stored(tmp_path) == [queued["id"]]  # kill -9 would leave it there
        path = f"/{queued['id']}"
        while not (now := (await ask("GET", path))[1])["output"]:
            pass
        assert (now["status"], response(now).output_text) == ("in_progress", "Hi")
        for wrong in ("true", "1", "maybe"):
            assert (await ask("GET", f"{path}?stream={wrong}"))[0] == 400
        going.set()
        while (done := (await ask("GET", path))[1])["status"] != "completed":
            pass
        assert response(done).output_text == "Hi you"
        assert (await ask("POST", f"{path}/cancel"))[1] == done
        raw = await ask.stream("POST", "", {**HELLO, "background": True, "stream": True})
        made = parsed(raw)
        assert names(made)[:3] == ["created", "queued", "in_progress"]
        again = f"/{made[0].response.id}?stream=true"
        assert await ask.stream("GET", again) == raw
        assert raw.endswith(await ask.stream("GET", f"{again}&starting_after=6"))


async def test_cancelled_and_deleted(tmp_path: Path) -> None:
    """Cancelling ends the ring's sequence and keeps what was said; deleting does, and keeps nothing."""
    backend = ScriptedBackend([WORDS[0], asyncio.Event()])
    async with serve_api(backend, home=tmp_path) as url, aiohttp.ClientSession() as session:
        ask = Client(session, url)
        paths = []
        for _ in range(2):
            _, made = await ask("POST", "", {**HELLO, "background": True})
            paths.append(f"/{made['id']}")
            while not (await ask("GET", paths[-1]))[1]["output"]:
                pass
        status, cancelled = await ask("POST", f"{paths[0]}/cancel")
        assert (status, cancelled["status"], response(cancelled).output_text) == (200, "cancelled", "Hi")
        assert (await ask("GET", paths[0]))[1] == cancelled
        assert (await ask("DELETE", paths[1]))[0] == 200
        assert (await ask("GET", paths[1]))[0] == 404
        await until(lambda: backend.open == 0)
        _, left = await ask("POST", "", {**HELLO, "background": True})
    async with node(tmp_path) as ask:  # the node has been stopped meanwhile
        failed = (await ask("GET", f"/{left['id']}"))[1]
        assert (failed["status"], failed["error"]["message"][:20]) == ("failed", "the node was stopped")


async def test_who_hangs_up_cancels(tmp_path: Path) -> None:
    """Without `background`, a client that leaves a stream ends the ring's sequence, and nothing is stored."""
    backend = ScriptedBackend([WORDS[0], asyncio.Event()])
    async with serve_api(backend, home=tmp_path) as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/v1/responses", json={**HELLO, "stream": True}) as answer:
            first = json.loads((await answer.content.readuntil(b"\n\n")).split(b"data: ")[1])
            await until(lambda: backend.open == 1)
        await until(lambda: backend.open == 0)
        assert (await Client(session, url)("GET", f"/{first['response']['id']}"))[0] == 404


async def test_failures(tmp_path: Path) -> None:
    """A failure before the answer has its own status, one in its middle ends the stream and is stored."""
    async with node(tmp_path, WORDS[0], PeerUnavailable("gone")) as ask:
        raw = await ask.stream("POST", "", {**HELLO, "stream": True, "exo": {"continuation": "off", "fallbacks": []}})
        events = parsed(raw)
        assert names(events)[-2:] == ["error", "failed"]
        assert (await ask("GET", f"/{events[0].response.id}"))[1]["status"] == "failed"
    async with node(tmp_path, ContextLengthExceeded("600 tokens; 512 fit")) as ask:
        status, error = await ask("POST", "", {**HELLO, "truncation": "auto"})
        assert (status, error["error"]["param"]) == (400, "truncation")
        assert "600 tokens" in error["error"]["message"]
        assert (await ask("POST", "", HELLO))[1]["error"]["param"] is None


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "", {"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ("POST", "", {"input": [{"id": "msg_x"}]}, "input[0].id"),
        ("GET", "/{}?include=everything", None, "include"),
        ("GET", "/{}?stream=true", None, "stream"),
        ("GET", "/{}?stream=true&starting_after=x", None, "starting_after"),
        ("GET", "/{}?stream=true&include_obfuscation=true", None, "include_obfuscation"),
        ("GET", "/{}/input_items?order=up", None, "order"),
        ("GET", "/{}/input_items?limit=101", None, "limit"),
        ("GET", "/{}/input_items?after=x", None, "after"),
        ("POST", "/{}/cancel", None, None),
    ],
)
async def test_what_is_wrong_is_named(tmp_path: Path, method: str, path: str, body: Any, param: str | None) -> None:
    """A request that cannot be served is a 400 with the field's name."""
    async with node(tmp_path) as ask:
        made = (await ask("POST", "", HELLO))[1]["id"] if "{}" in path else ""
        status, error = await ask(method, path.format(made), body and {"model": "demo", **body})
    assert (status, error["error"]["param"]) == (400, param)


async def test_input_tokens(tmp_path: Path) -> None:
    """A request's tokens are counted, or estimated where nobody can count them."""
    async with node(tmp_path) as ask:
        status, counted = await ask("POST", "/input_tokens", {**HELLO, "instructions": "Be kind"})
    assert status == 200
    assert counted["object"] == "response.input_tokens"
    assert counted["input_tokens"] > 0
