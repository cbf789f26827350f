"""Downloads that go on when the request that began them has been answered."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

from exo_node.api.errors import internal
from exo_node.api.ports import ClusterPort
from exo_node.errors import ExoError

KEPT = 100  # ended ones that are remembered


@dataclass(slots=True, kw_only=True)
class Download:
    """`done` and `total` are bytes, as far as they are known; `began` and `ended` on `time.monotonic()`'s clock."""

    model: str
    node_id: str
    began: float
    state: Literal["running", "completed", "failed", "cancelled"] = "running"
    done: int = 0
    total: int = 0
    first: int | None = None  # bytes that were there already
    ended: float | None = None
    error: str = ""
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def rate(self, now: float) -> float:
        """Bytes a second since it began."""
        passed = (now if self.ended is None else self.ended) - self.began
        return max(0.0, (self.done - (self.first or 0)) / passed) if passed > 0 else 0.0

    def left_s(self, now: float) -> float | None:
        """Seconds to its end at this rate."""
        rate = self.rate(now)
        return (self.total - self.done) / rate if rate and self.total else None


class Downloads:
    """Owns their tasks; `close` is aiohttp's `on_cleanup`."""

    def __init__(self, cluster: ClusterPort) -> None:
        self._cluster = cluster
        self._known: dict[tuple[str, str], Download] = {}

    def start(self, model: str, node_id: str) -> Download:
        """Begin, or find the one that runs."""
        found = self._known.get((node_id, model))
        if found is not None and found.state == "running":
            return found
        made = Download(model=model, node_id=node_id, began=time.monotonic())
        self._known.pop((node_id, model), None)
        self._known[node_id, model] = made
        made.task = asyncio.create_task(self._run(made))
        ended = [key for key, one in self._known.items() if one.state != "running"]
        for key in ended[: max(0, len(ended) - KEPT)]:
            del self._known[key]
        return made

    async def cancel(self, model: str, node_id: str) -> bool:
        """End one that runs; what came is kept. False where there is none."""
        found = self._known.get((node_id, model))
        if found is None or found.state != "running" or found.task is None:
            return False
        found.task.cancel()
        await asyncio.wait((found.task,))
        if found.state == "running":  # it had not even begun
            found.state, found.ended = "cancelled", time.monotonic()
        return True

    def all(self) -> list[Download]:
        """The latest last."""
        return list(self._known.values())

    async def close(self, app: web.Application) -> None:
        for one in self.all():
            await self.cancel(one.model, one.node_id)

    async def _run(self, one: Download) -> None:
        def report(stage: str, done: int, total: int) -> None:
            if stage == "fetching":
                one.first = done if one.first is None else one.first
                one.done, one.total = done, total

        try:
            if one.node_id == self._cluster.node_id:
                await self._cluster.fetch_model(one.model, report)
            else:
                await self._cluster.describe_at(one.node_id, one.model, fetch=True)
            one.state, one.done = "completed", one.total
        except asyncio.CancelledError:
            one.state = "cancelled"
        except ExoError as e:
            one.state, one.error = "failed", e.message
        except Exception as e:  # the border of a task that nobody waits for
            one.state, one.error = "failed", internal(e).message
        one.ended = time.monotonic()
