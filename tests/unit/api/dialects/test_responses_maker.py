"""What the next maker of a response asks for, and what is written down of it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from exo_node.api.dialects.responses_maker import fresh_seed
from tests.unit.api.dialects.test_responses import HELLO, WORDS
from tests.unit.api.dialects.test_responses_places import begin, copies, running, shown
from tests.unit.api.mirroring.wire import Node, cluster
from tests.unit.api.scripted import until


def rows(home: Path) -> list[tuple[str, str, str]]:
    """(maker, mirror, owner) of each stored response."""
    with closing(sqlite3.connect(next(home.glob("*.db")))) as database:
        return [tuple(row) for row in database.execute("SELECT node, mirror, owner FROM responses")]


def test_seeds() -> None:
    """Every response has its own, of a size that JSON can carry."""
    assert len({fresh_seed() for _ in range(99)}) == 99
    assert fresh_seed() < 2**63


async def test_the_same_is_asked_for(tmp_path: Path) -> None:
    """The seed is the request's, else the first maker's; the tier and what may be used of earlier prompts stay."""
    async with cluster(tmp_path, [WORDS[0], asyncio.Event()], WORDS) as (wire, (a, b)):
        for more in ({"seed": 7}, {"service_tier": "flex"}):
            ident, reader = await begin(a, **more)
            await until(lambda ident=ident: shown(a, ident) >= 6)  # type: ignore[misc]
            wire.cut("a")
            await until(lambda: bool(b.backend.requests) and not running(b))
            first, second = a.backend.requests.pop(), b.backend.requests.pop()
            assert (first.seed, first.priority) == (second.seed, second.priority)
            assert (first.seed == 7) == ("seed" in more)
            wire.mend("a")
            await reader


async def test_both_keep_it(tmp_path: Path) -> None:
    """One that nothing happened to is on both nodes, with its maker's name; without its stream where none was asked."""

    async def done(*nodes: Node) -> None:
        await until(lambda: not any(running(node) or copies(node) for node in nodes))

    async with cluster(tmp_path, WORDS, WORDS) as (_, (a, b)):
        _, made = await a.ask("POST", "", {**HELLO, "background": True})
        await done(a, b)
        first, second = [await node.ask("GET", f"/{made['id']}") for node in (a, b)]
        assert first == second
        assert (first[0], first[1]["status"]) == (200, "completed")
        assert (await b.ask("GET", f"/{made['id']}?stream=true"))[0] == 400
    assert rows(tmp_path / "a") == [("a", "b", "")]
    assert rows(tmp_path / "b") == [("a", "b", "@mirror")]
