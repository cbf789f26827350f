"""`keep_alive`: takes a model's instances down once nobody has used them for as long as the last request said.

Kept in memory of the node that was asked. A model for which no request ever said anything stays until it is unloaded.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exo_node.api.ports import ClusterPort
from exo_node.errors import ExoError

log = logging.getLogger(__name__)
AGAIN_S = 1.0  # until the next look at a model that is to go at once but is busy


class IdleUnloader:
    """One timer per model. `close` ends them all."""

    def __init__(self, cluster: ClusterPort) -> None:
        self._cluster = cluster
        self._timers: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._expiry_ns: dict[str, int] = {}
        self._used: Counter[str] = Counter()  # requests of this dialect that run now
        self._going: dict[str, asyncio.Event] = {}  # models that are being taken down

    @asynccontextmanager
    async def use(self, model: str, keep_alive_s: float | None) -> AsyncIterator[None]:
        """While a request uses the model it stays; then the time runs, anew where the request says nothing of it.

        Where the model is just going it is gone first: the request has it loaded again.
        """
        while (going := self._going.get(model)) is not None:
            await going.wait()
        self._used[model] += 1
        try:
            yield
        finally:
            self._used[model] -= 1
            if not self._used[model]:
                del self._used[model]
            self._set(model, keep_alive_s)

    def expires_ns(self, model: str) -> int | None:
        """When the model goes if nobody uses it, in nanoseconds since 1970; None: it stays."""
        return self._expiry_ns.get(model)

    async def unload(self, model: str) -> bool:
        """Take all instances of the model down, now or when nobody uses them any more; whether there are any.

        Raises `ExoError`.
        """
        while (going := self._going.get(model)) is not None:
            await going.wait()
        instances = self._instances(model)
        busy, _ = await self._activity(instances)
        if busy or self._used[model]:
            self._set(model, 0)
        else:
            self._stop(model)
            await self._remove(model, instances)
        return bool(instances)

    async def close(self) -> None:
        tasks = [task for _, task in self._timers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._timers.clear()

    def _set(self, model: str, keep_alive_s: float | None) -> None:
        known = self._timers.get(model)
        seconds = keep_alive_s if keep_alive_s is not None else (known[0] if known else math.inf)
        self._stop(model)
        if seconds != math.inf:
            self._expiry_ns[model] = time.time_ns() + int(seconds * 1e9)
            task = asyncio.create_task(self._run(model, seconds))
            self._timers[model] = (seconds, task)

    def _stop(self, model: str) -> None:
        known = self._timers.pop(model, None)
        self._expiry_ns.pop(model, None)
        if known is not None:
            known[1].cancel()

    async def _run(self, model: str, seconds: float) -> None:
        try:
            await self._watch(model, seconds)
        except ExoError as error:  # a node of it is gone, or it is being loaded again: whoever does that goes on
            log.warning("%s stays loaded: %s", model, error.message)
        if (known := self._timers.get(model)) is not None and known[1] is asyncio.current_task():
            del self._timers[model]
            self._expiry_ns.pop(model, None)

    async def _watch(self, model: str, seconds: float) -> None:
        """Ends when the model has been unloaded, by this or otherwise."""
        before: int | None = None
        while (instances := self._instances(model)) or self._used[model]:
            busy, steps = await self._activity(instances)
            if not busy and not self._used[model] and (steps == before or not seconds):
                await self._remove(model, instances)
                return
            before = steps
            wait = seconds or AGAIN_S
            self._expiry_ns[model] = time.time_ns() + int(wait * 1e9)
            await asyncio.sleep(wait)

    async def _remove(self, model: str, instances: list[str]) -> None:
        gone = self._going[model] = asyncio.Event()
        try:
            for one in instances:
                await self._cluster.remove(one)
        finally:
            del self._going[model]
            gone.set()

    def _instances(self, model: str) -> list[str]:
        return [one["id"] for one in self._cluster.instances() if one["model"] == model and one["state"] == "ready"]

    async def _activity(self, instances: list[str]) -> tuple[bool, int]:
        """Whether somebody (on any node, through any dialect) uses them now, and the steps that they have made."""
        stages = [stage for one in instances for stage in await self._cluster.instance_stats(one) or ()]
        return any(one["running"] or one["waiting"] for one in stages), sum(one["steps"] for one in stages)
