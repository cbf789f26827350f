"""Sends the logs of this node's background answers to their mirrors.

One task for each peer, one call at a time: what comes while a call runs goes with the next one, of all answers.
Readers are shown what the mirror has, so they are a round trip and `PACE_S` behind, and `HOLD_S` at most: a mirror that
hangs holds nobody up, and what was shown without it may be said otherwise by the next maker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from exo_node.api.mirroring.choice import mirrors
from exo_node.api.mirroring.log import Part, Position, ResponseLog
from exo_node.api.mirroring.ports import PeersPort
from exo_node.errors import ExoError

log = logging.getLogger("exo.mirror")

HOLD_S = 0.25
PACE_S = 0.01  # between the beginnings of two calls: one for each token would cost a busy node a core
CALL_S = 2.0  # a mirror that takes longer is none
CALL_BYTES = 2 * 1024 * 1024  # of one call


@dataclass(slots=True)
class Outgoing:
    """One log on its way. `shown(version)` is told what readers may see; `superseded` that another node makes it."""

    log: ResponseLog
    shown: Callable[[int], None]
    superseded: Callable[[], None]
    mirror: str = ""
    at: Position = field(default_factory=Position)
    silent: set[str] = field(default_factory=set)  # nodes that did not take it in time, until they come back
    unwilling: set[str] = field(default_factory=set)  # nodes that would not have it, until something changes
    assigned: bool = False


class Sender:
    """`run` as long as the node lives; without it, and without peers, everything is shown at once."""

    def __init__(self, peers: PeersPort) -> None:
        self._peers = peers
        self._out: dict[str, Outgoing] = {}
        self._news: dict[str, asyncio.Event] = {}  # of each peer with a task
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, out: Outgoing) -> None:
        self._out[out.log.id] = out
        self._assign(out)

    def told(self, out: Outgoing) -> None:
        """The log has grown."""
        if not out.mirror:
            out.shown(out.log.version)
        elif (news := self._news.get(out.mirror)) is not None:
            news.set()

    def remove(self, ident: str) -> None:
        """Nothing more is sent of it."""
        out = self._out.pop(ident, None)
        if out is not None:
            out.mirror = ""

    async def flush(self) -> set[str]:
        """When `run` has ended: send what is left. The ids of the logs that their mirrors have whole."""
        nodes = {out.mirror for out in self._out.values() if out.mirror}
        return set[str]().union(*await asyncio.gather(*map(self._flush, nodes)))

    async def run(self) -> None:
        """Choose mirrors, again whenever nodes come or go."""
        for out in self._out.values():
            out.mirror = ""  # where it begins again, its tasks are gone
        async with asyncio.TaskGroup() as self._group:
            try:
                while True:
                    seen = self._peers.version()
                    self._look()
                    await self._peers.changed(seen)
            finally:
                self._group = None
                for task in self._tasks.values():
                    task.cancel()
                self._tasks.clear()

    # -- parts

    async def _flush(self, node: str) -> set[str]:
        with contextlib.suppress(ExoError):
            while pieces := self._pieces(node):
                refused = await self._peers.send(node, [part for _, part, _ in pieces], CALL_S)
                for out, part, then in pieces:
                    out.at = then
                    if part.id in refused:
                        out.mirror = ""
        whole = (out for out in self._out.values() if out.mirror == node and out.at.version == out.log.version)
        return {out.log.id for out in whole}

    def _look(self) -> None:
        live = self._peers.live()
        for node in [one for one in self._tasks if one not in live]:
            self._tasks.pop(node).cancel()
            del self._news[node]
        for out in list(self._out.values()):
            out.silent &= live.keys()
            out.unwilling.clear()
            if out.mirror not in live:
                out.mirror = ""
                self._assign(out)

    def _assign(self, out: Outgoing) -> None:
        """Give it the best mirror that there is, where one is needed."""
        nodes = self._peers.live().keys() - out.silent - out.unwilling
        ranked = mirrors(out.log.id, nodes if self._group is not None else ())
        if not ranked or (out.log.row and not out.assigned):
            out.mirror = ""
            out.shown(out.log.version)
            if out.log.row:
                self.remove(out.log.id)
            return
        if out.assigned:
            out.log.term += 1
        out.mirror, out.assigned, out.at = ranked[0], True, Position()
        if out.mirror not in self._tasks and self._group is not None:
            self._news[out.mirror] = asyncio.Event()
            self._tasks[out.mirror] = self._group.create_task(self._pump(out.mirror, self._news[out.mirror]))
        self._news[out.mirror].set()

    async def _pump(self, node: str, news: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await news.wait()
            news.clear()
            while pieces := self._pieces(node):
                began = loop.time()
                late = loop.call_later(HOLD_S, self._release, [out for out, _, _ in pieces])
                try:
                    refused = await self._peers.send(node, [part for _, part, _ in pieces], CALL_S)
                except ExoError as error:
                    log.info("node %s mirrors no more for now: %s", node, error.message)
                    self._leave(node)
                    break
                finally:
                    late.cancel()
                for out, part, then in pieces:
                    self._taken(out, node, part, then, refused.get(part.id, ""))
                await asyncio.sleep(began + PACE_S - loop.time())

    def _pieces(self, node: str) -> list[tuple[Outgoing, Part, Position]]:
        found, room = [], CALL_BYTES
        for out in self._out.values():
            if out.mirror == node and out.at.version != out.log.version and room > 0:
                part, then = out.log.after(out.at, self._peers.node_id, self._peers.boot_id)
                room -= len(part.head) + len(part.said) + len(part.row) + 200
                found.append((out, part, then))
        return found

    def _release(self, held: list[Outgoing]) -> None:
        for out in held:
            out.shown(out.log.version)

    def _leave(self, node: str) -> None:
        for out in list(self._out.values()):
            if out.mirror == node:
                out.silent.add(node)
                out.mirror = ""
                self._assign(out)

    def _taken(self, out: Outgoing, node: str, part: Part, then: Position, why: str) -> None:
        if out.mirror != node or part.term != out.log.term:
            return  # it has another mirror meanwhile
        if not why:
            out.at = then
            if then.version >= 0:
                out.shown(then.version)
                if out.log.row and then.version == out.log.version:
                    self.remove(part.id)
        elif why == "superseded":
            self.remove(part.id)
            out.superseded()
        elif why == "deleted":
            self.remove(part.id)
            out.shown(out.log.version)
        elif why == "gap":
            out.at = Position()
        else:
            out.unwilling.add(node)
            out.mirror = ""
            self._assign(out)
