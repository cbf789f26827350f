"""Responses of a cluster: found from every node, mirrored on a second one, gone on with when their maker is lost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from exo_node.api.dialects.responses_places import Places
from exo_node.api.ports import Principal
from exo_node.types import TokenDelta
from tests.unit.api.dialects.responses_events import names, parsed, response
from tests.unit.api.dialects.test_responses import HELLO, WORDS
from tests.unit.api.mirroring.wire import Node, cluster
from tests.unit.api.scripted import Step, until
from tests.unit.api.scripted_routing import ScriptedRouting

MORE: list[Step] = [WORDS[0], TokenDelta(" there", (3,)), WORDS[1]]
BACKGROUND = {**HELLO, "background": True, "stream": True}


async def begin(node: Node, **more: Any) -> tuple[str, asyncio.Task[bytes]]:
    """A streamed response on `node`: its id, and its client."""
    reader = asyncio.create_task(node.ask.stream("POST", "", {**BACKGROUND, **more}))
    await until(lambda: bool(running(node)))
    return running(node)[0], reader


def running(node: Node) -> list[str]:
    return [ident for ident, _ in node.api.responses._background.running()]


def shown(node: Node, ident: str) -> int:
    job = node.api.responses._background.made(ident)
    return 0 if job is None else job.shown


def copies(node: Node) -> list[str]:
    return list(node.api.responses._copies._copies)


async def test_every_node_has_it(tmp_path: Path) -> None:
    """Whoever is asked: its state, its stream, its items, what goes on from it, cancelling and deleting."""
    never = asyncio.Event()
    async with cluster(tmp_path, [WORDS[0], never], WORDS, WORDS) as (_, (a, b, c)):
        ident, reader = await begin(a)
        path = f"/{ident}"
        await until(lambda: shown(a, ident) >= 6)
        for node in (a, b, c):
            now = (await node.ask("GET", path))[1]
            assert (now["status"], response(now).output_text) == ("in_progress", "Hi")
            assert len((await node.ask("GET", f"{path}/input_items"))[1]["data"]) == 1
        others = [asyncio.create_task(one.ask.stream("GET", f"{path}?stream=true")) for one in (b, c)]
        await asyncio.sleep(0)
        assert (await b.ask("POST", f"{path}/cancel"))[1]["status"] == "cancelled"
        raw = await reader
        assert [await one for one in others] == [raw, raw]
        assert parsed(raw)[-1].code == "response_cancelled"
        assert a.backend.open == 0
        a.backend.script = WORDS
        _, whole = await b.ask("POST", "", HELLO)
        _, second = await c.ask("POST", "", {**HELLO, "previous_response_id": whole["id"]})
        _, third = await a.ask("POST", "", {**HELLO, "previous_response_id": second["id"]})
        assert third["status"] == "completed"
        assert [len(node.backend.requests[-1].messages or ()) for node in (b, c, a)] == [1, 3, 5]
        assert (await c.ask("DELETE", path))[0] == 200
        for node in (a, b, c):
            assert (await node.ask("GET", path))[0] == 404
            assert (await node.ask("DELETE", path))[0] == 404


async def test_only_its_key_sees_it(tmp_path: Path) -> None:
    """The same key on another machine, whatever its id is there; no other one, and not who comes without any."""
    routing = ScriptedRouting()
    routing.keys = {
        name: Principal(f"id-{name}", admin=name == "admin", proof=name.encode()) for name in ("mine", "other", "admin")
    }
    async with cluster(tmp_path, WORDS, WORDS, keys=routing) as (_, (a, b)):
        _, made = await a.ask("POST", "", {**HELLO, "background": True}, key="mine")
        path = f"/{made['id']}"
        await until(lambda: not running(a) and not copies(b))
        for node in (a, b):
            assert (await node.ask("GET", path, key="mine"))[0] == 200
            for key in ("other", "admin"):
                for method, where in (("GET", path), ("DELETE", path), ("POST", f"{path}/cancel")):
                    assert (await node.ask(method, where, key=key))[0] == 404


async def test_the_mirror_goes_on(tmp_path: Path) -> None:
    """The next maker has the same events, and those that follow; readers anywhere go on with their next number, at the
    node that was lost too once it is back: it makes nothing any more."""
    never = asyncio.Event()
    scripts = [[*MORE[:2], never], MORE, MORE]
    async with cluster(tmp_path, *scripts) as (wire, nodes):
        a = nodes[0]
        ident, reader = await begin(a)
        await until(lambda: shown(a, ident) >= 7)
        mirror = next(node for node in nodes if copies(node))
        third = next(node for node in nodes[1:] if node is not mirror)
        follower = asyncio.create_task(third.ask.stream("GET", f"/{ident}?stream=true"))
        await until(lambda: len(third.api.responses._background.running()) == 0)
        wire.cut("a")
        raw = await follower
        events = parsed(raw)
        assert names(events)[-1] == "completed"
        assert events[-1].response.output_text == "Hi there you"
        assert [len(node.backend.requests) for node in (mirror, third)] == [1, 0]
        asked, first = mirror.backend.requests[0], a.backend.requests[0]
        assert (asked.prefix, asked.prefix_ids, asked.seed) == ("Hi there", (1, 3), first.seed)
        assert first.seed is not None
        assert running(a) == [ident]
        wire.mend("a")
        assert await reader == raw
        assert (running(a), a.backend.open) == ([], 0)
        await until(lambda: not any(copies(node) for node in nodes))
        for node in nodes:
            assert raw.endswith(await node.ask.stream("GET", f"/{ident}?stream=true&starting_after=6"))
            assert response((await node.ask("GET", f"/{ident}"))[1]) == events[-1].response


async def test_the_mirror_of_the_mirror(tmp_path: Path) -> None:
    """When the mirror is lost another one is chosen; a copy that was left behind counts for nothing."""
    going = asyncio.Event()
    async with cluster(tmp_path, [*MORE[:1], going, *MORE[1:2], asyncio.Event()], MORE, MORE) as (wire, nodes):
        a = nodes[0]
        ident, reader = await begin(a)
        await until(lambda: shown(a, ident) >= 6)
        first = next(name for name, node in zip("abc", nodes, strict=True) if copies(node))
        second = {"b": "c", "c": "b"}[first]
        old, new = nodes["abc".index(first)], nodes["abc".index(second)]
        wire.boots.pop(first)  # its peers lose it, and it loses nobody
        wire.signal.notify()
        await until(lambda: bool(copies(new)))
        going.set()
        await until(lambda: shown(a, ident) >= 7)
        wire.boots[first] = "1"
        wire.cut("a")
        raw = await new.ask.stream("GET", f"/{ident}?stream=true")
        assert parsed(raw)[-1].response.output_text == "Hi there you"
        assert [len(one.backend.requests) for one in (old, new)] == [0, 1]
        assert raw == await old.ask.stream("GET", f"/{ident}?stream=true")
        reader.cancel()


async def test_a_node_that_stops_hands_over(tmp_path: Path) -> None:
    """What it makes is not failed: its mirror goes on when it is gone."""
    async with cluster(tmp_path, [WORDS[0], asyncio.Event()], WORDS) as (wire, (a, b)):
        ident, reader = await begin(a)
        await until(lambda: shown(a, ident) >= 6)
        await a.runner.cleanup()
        reader.cancel()
        wire.cut("a")
        raw = await b.ask.stream("GET", f"/{ident}?stream=true")
        assert parsed(raw)[-1].response.output_text == "Hi you"


class Slow:
    """Holds the first call of a coroutine function back: before it, or what it gives."""

    def __init__(self, function: Any, *, after: bool) -> None:
        self._function, self._after = function, after
        self.begun, self.gate = asyncio.Event(), asyncio.Event()

    async def __call__(self, *arguments: Any) -> Any:
        first = not self.begun.is_set()
        given = await self._function(*arguments) if self._after or not first else None
        if first:
            self.begun.set()
            await self.gate.wait()
        return given if self._after or not first else await self._function(*arguments)


@pytest.mark.parametrize("asked", ["mirror", "third"])
async def test_it_is_never_unknown(asked: str, tmp_path: Path) -> None:
    """While its mirror takes it over too, whoever is asked: the mirror had a copy a moment ago, and makes it now."""
    async with cluster(tmp_path, [*MORE[:2], asyncio.Event()], MORE, MORE) as (wire, nodes):
        a = nodes[0]
        ident, reader = await begin(a)
        await until(lambda: shown(a, ident) >= 7)
        mirror = next(node for node in nodes if copies(node))
        third = next(node for node in nodes[1:] if node is not mirror)
        kept: Any = mirror.api.responses._kept
        host: Any = third.api.responses
        host.take = lambda parts: {part.id: "full" for part in parts}
        if asked == "third":  # the mirror reads its database in vain
            slow = kept.stored = Slow(kept.stored, after=True)
        else:  # the third node has nothing, and is slow to say so
            slow = host.asked = Slow(host.asked, after=False)
        del wire.hosts["a"]  # it is dead, and not missed yet
        asking = asyncio.create_task((third if asked == "third" else mirror).ask("GET", f"/{ident}"))
        await slow.begun.wait()
        wire.cut("a")
        await until(lambda: not copies(mirror))
        slow.gate.set()
        assert (await asking)[0] == 200
        reader.cancel()


async def test_what_is_deleted_is_not_gone_on_with(tmp_path: Path) -> None:
    """Though its mirror has begun to take it over."""
    async with cluster(tmp_path, [*MORE[:2], asyncio.Event()], MORE, MORE) as (wire, nodes):
        a = nodes[0]
        ident, reader = await begin(a)
        await until(lambda: shown(a, ident) >= 7)
        mirror = next(node for node in nodes if copies(node))
        third: Any = next(node for node in nodes[1:] if node is not mirror).api.responses
        slow = third.asked = Slow(third.asked, after=True)
        wire.cut("a")
        await slow.begun.wait()
        assert (await mirror.ask("DELETE", f"/{ident}"))[0] == 200
        slow.gate.set()
        await until(lambda: not mirror.api.responses._copies._taking)
        assert (running(mirror), mirror.backend.requests) == ([], [])
        reader.cancel()


@pytest.mark.parametrize("ended", [True, False])
async def test_what_is_deleted_stays_deleted(ended: bool, tmp_path: Path) -> None:
    """On a node that was away too, once it is back, and where a copy is under way. What nobody mirrors needs no
    telling."""
    going = asyncio.Event()
    async with cluster(tmp_path, [*MORE[:2], going, MORE[2]], MORE, MORE) as (wire, nodes):
        a = nodes[0]
        ident, reader = await begin(a)
        await until(lambda: shown(a, ident) >= 7)
        if ended:
            going.set()
            await reader
        a.backend.script = WORDS
        _, plain = await a.ask("POST", "", HELLO)
        assert (await a.ask("DELETE", f"/{plain['id']}"))[0] == 200
        wire.cut("a")
        assert (await nodes[1].ask("DELETE", f"/{ident}"))[0] == 200
        assert (await a.ask("GET", f"/{ident}"))[0] == 200
        wire.mend("a")
        while {(await node.ask("GET", f"/{ident}"))[0] for node in nodes} != {404}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not any(map(running, nodes))
        assert {one for node in nodes for one, _ in await node.api.responses._kept.buried()} == {ident}
        reader.cancel()


async def test_a_reader_that_is_sent_away_can_go_on(tmp_path: Path) -> None:
    """The last word of a node that stops has the number after which its readers miss nothing elsewhere."""
    going = asyncio.Event()
    async with cluster(tmp_path, [WORDS[0], going, WORDS[1]], []) as (_, (a, b)):
        ident, reader = await begin(a)
        await until(lambda: shown(a, ident) >= 6)
        await a.api.leaving.drain(0.01)
        seen, _, error = (await reader).removesuffix(b"\n\n").rpartition(b"\n\n")
        assert error.startswith(b"event: error\n")
        going.set()
        number = json.loads(error.partition(b"data: ")[2])["sequence_number"]
        rest = await b.ask.stream("GET", f"/{ident}?stream=true&starting_after={number}")
        assert names(parsed(seen + b"\n\n" + rest))[-1] == "completed"


async def test_an_answer_that_cannot_go_on(tmp_path: Path) -> None:
    """It fails in the next maker's words, and does not stay in the making."""
    async with cluster(tmp_path, [WORDS[0], asyncio.Event()], WORDS) as (wire, (a, b)):
        ident, reader = await begin(a, top_logprobs=1)
        await until(lambda: shown(a, ident) >= 6)
        wire.cut("a")
        events = parsed(await b.ask.stream("GET", f"/{ident}?stream=true"))
        assert names(events)[-2:] == ["error", "failed"]
        assert "nobody can go on with it because it has logprobs" in events[-2].message
        reader.cancel()


def test_it_serves_peers() -> None:
    """See `api.mirroring.ports.ResponseHost`."""
    assert all(hasattr(Places, name) for name in ("take", "asked", "followed"))
