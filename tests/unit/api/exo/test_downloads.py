"""Downloads behind the request that began them."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from exo_node.api.exo import downloads
from exo_node.api.exo.downloads import Download, Downloads
from exo_node.api.ports import StageProgress
from tests.unit.api.scripted import ScriptedCluster


class Held(ScriptedCluster):
    """Fetches when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def fetch_model(self, model: str, on_progress: StageProgress) -> str:
        on_progress("fetching", 10, 100)
        on_progress("fetching", 30, 100)
        on_progress("hashing", 0, 5)
        await self.go.wait()
        if model == "bug":
            raise ZeroDivisionError
        return await super().fetch_model(model, on_progress)


async def ended(one: Download) -> Download:
    assert one.task is not None
    await one.task
    return one


async def test_a_download() -> None:
    """One at a time for each model and node; it tells how far it is, and how it ended."""
    cluster = Held()
    cluster.fetchable = {"org/m": []}
    cluster.elsewhere = {"node-b": ["org/m"]}
    known = Downloads(cluster)
    one = known.start("org/m", "node-a")
    assert known.start("org/m", "node-a") is one
    await asyncio.sleep(0)
    assert (one.done, one.total, one.first, one.state) == (30, 100, 10, "running")
    cluster.go.set()
    assert (await ended(one)).state == "completed"
    assert (await ended(known.start("org/none", "node-a"))).error == "no model 'org/none'"
    assert "internal error" in (await ended(known.start("bug", "node-a"))).error
    assert (await ended(known.start("org/m", "node-b"))).state == "completed"
    assert (await ended(known.start("org/m", "node-c"))).state == "failed"
    assert known.start("org/m", "node-a") is not one
    await known.close(web.Application())


async def test_cancel() -> None:
    """One that runs ends; another is not there. Closing ends all."""
    known = Downloads(Held())
    one, other = known.start("org/m", "node-a"), known.start("org/n", "node-a")
    assert await known.cancel("org/m", "node-a")
    assert one.state == "cancelled"
    assert not await known.cancel("org/m", "node-a")
    assert not await known.cancel("org/x", "node-a")
    await known.close(web.Application())
    assert other.state == "cancelled"


async def test_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that have ended the latest."""
    monkeypatch.setattr(downloads, "KEPT", 2)
    known = Downloads(ScriptedCluster())
    for i in range(5):
        await ended(known.start(f"m{i}", "node-a"))
    known.start("last", "node-a")
    assert [one.model for one in known.all()] == ["m3", "m4", "last"]
    await known.close(web.Application())


def test_rates() -> None:
    """Of what came since it began; nobody knows the end of what has not begun to come."""
    one = Download(model="m", node_id="a", began=10.0)
    assert (one.rate(10.0), one.rate(12.0), one.left_s(12.0)) == (0.0, 0.0, None)
