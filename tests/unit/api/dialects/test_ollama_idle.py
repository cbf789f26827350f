"""`keep_alive`: who is idle goes, who is used stays."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from exo_node.api.dialects import ollama_idle
from exo_node.api.dialects.ollama_idle import IdleUnloader
from tests.unit.api.scripted import ScriptedCluster, until


class Cluster(ScriptedCluster):
    """`busy` sequences run on every instance; `steps` is what was made so far, one more with each look if `moving`."""

    def __init__(self) -> None:
        super().__init__()
        self.busy, self.steps, self.looks, self.moving = 0, 0, 0, False
        self.placed = [{"id": "i", "model": "m", "state": "ready"}]

    async def instance_stats(self, instance_id: str) -> list[dict[str, Any]] | None:
        self.looks += 1
        self.steps += self.moving
        return [{"running": self.busy, "waiting": 0, "steps": self.steps}]


@pytest.fixture
async def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def idle(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[IdleUnloader]:
    monkeypatch.setattr(ollama_idle, "AGAIN_S", 0.001)
    made = IdleUnloader(cluster)
    yield made
    await made.close()


async def test_at_once_when_nobody_uses_it(cluster: Cluster, idle: IdleUnloader) -> None:
    """With 0 the model goes after the answer, but not while another sequence runs on it."""
    cluster.busy = 1
    async with idle.use("m", 0):
        pass
    await until(lambda: cluster.looks > 3)
    assert cluster.placed
    cluster.busy = 0
    await until(lambda: not cluster.placed)
    await until(lambda: idle.expires_ns("m") is None)


async def test_after_a_while(cluster: Cluster, idle: IdleUnloader) -> None:
    """A time begins anew as long as the model makes steps, for whomever."""
    cluster.moving = True
    async with idle.use("m", 0.002):
        pass
    await until(lambda: cluster.looks > 3)
    assert cluster.placed
    assert idle.expires_ns("m") is not None
    cluster.moving = False
    await until(lambda: not cluster.placed)


async def test_its_time_is_told_at_once(cluster: Cluster, idle: IdleUnloader) -> None:
    """Who asks right after the answer hears it, however long the first look at the model takes."""
    async with idle.use("m", 600):
        assert idle.expires_ns("m") is None
    assert idle.expires_ns("m") is not None
    assert cluster.looks == 0


async def test_it_stays_while_a_request_runs(cluster: Cluster, idle: IdleUnloader) -> None:
    """A request of ours holds it, whatever another one said."""
    async with idle.use("m", None):
        async with idle.use("m", 0):
            pass
        await until(lambda: cluster.looks > 3)
        assert cluster.placed
    await until(lambda: not cluster.placed)  # the last word still holds


async def test_it_stays_for_ever(cluster: Cluster, idle: IdleUnloader) -> None:
    """Without a word, and with a negative time, nothing ends; the latter ends an earlier time."""
    for said in (None, 60.0, math.inf):
        async with idle.use("m", said):
            pass
    assert idle.expires_ns("m") is None
    assert cluster.looks == 0


async def test_a_request_while_it_goes(cluster: Cluster, idle: IdleUnloader) -> None:
    """It waits until the model is gone, so that it is loaded anew and not asked while it falls."""
    going, gone = asyncio.Event(), asyncio.Event()
    remove = cluster.remove

    async def slowly(instance_id: str) -> bool:
        going.set()
        await gone.wait()
        return await remove(instance_id)

    cluster.remove = slowly  # type: ignore[method-assign]
    unloading = asyncio.create_task(idle.unload("m"))
    await going.wait()

    async def ask() -> bool:
        async with idle.use("m", None):
            return bool(cluster.placed)

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    gone.set()
    assert not await asking
    assert await unloading


async def test_unload(cluster: Cluster, idle: IdleUnloader) -> None:
    """Now where nobody uses it, else as soon as that is so."""
    assert await idle.unload("m")
    assert not cluster.placed
    assert not await idle.unload("m")
    cluster.placed = [{"id": "i", "model": "m", "state": "ready"}]
    cluster.busy = 1
    assert await idle.unload("m")
    assert cluster.placed
    cluster.busy = 0
    await until(lambda: not cluster.placed)
