"""The copies that this node keeps of its peers' answers in the making, and who goes on when their maker is gone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from exo_node.api.mirroring.log import Copy, Part
from exo_node.api.mirroring.ports import PeersPort
from exo_node.errors import ExoError

log = logging.getLogger("exo.mirror")

MAX_COPIES, MAX_BYTES = 1024, 256 * 1024 * 1024  # of all copies together: a bound on memory
MAX_DELETED = 4096  # ids remembered, so that a part that comes late does not bring an answer back
SETTLE_S = 15.0  # how long who asks for a copy waits for its maker to be missed, and somebody to go on


class Copies:
    """`ended` is told of the stored response of an answer that its maker has ended; `take_over` goes on with a copy
    whose maker is gone; `newest` is the highest term that this node has of an answer itself (0: it has none).

    A maker does not tell a mirror that it has left for another one, nor one that it lost sight of at its answer's end:
    what was not heard of for `lasts_s` seconds, longer than any answer takes, has ended."""

    def __init__(
        self,
        peers: PeersPort,
        newest: Callable[[str], int],
        ended: Callable[[Copy], None],
        take_over: Callable[[Copy], Awaitable[None]],
        *,
        lasts_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peers = peers
        self._lasts_s, self._clock = lasts_s, clock
        self._newest, self._ended, self._take_over = newest, ended, take_over
        self._copies: dict[str, Copy] = {}
        self._taking: dict[str, asyncio.Task[None]] = {}
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._changed = asyncio.Event()

    def get(self, ident: str) -> Copy | None:
        return self._copies.get(ident)

    def take(self, part: Part) -> str:
        """Why not ("": it is kept). See `ports.Refusal`."""
        if part.id in self._deleted:
            return "deleted"
        if self._peers.live().get(part.maker) != part.boot:
            return "stranger"
        copy = self._copies.get(part.id)
        known = max(self._newest(part.id), 0 if copy is None else copy.term)
        if part.term < known or part.id in self._taking:
            return "superseded"
        if copy is None or (copy.term, copy.maker, copy.boot) != (part.term, part.maker, part.boot):
            self._drop_ended()
            if len(self._copies) >= MAX_COPIES or sum(one.size for one in self._copies.values()) > MAX_BYTES:
                return "full"
            copy = Copy(part.id, part.term, part.maker, part.boot)
        if not copy.take(part):
            return "gap"
        self._copies[part.id], copy.heard = copy, self._clock()
        if copy.ended:
            self._drop(part.id)
            self._ended(copy)
        return ""

    def delete(self, ident: str) -> None:
        """It is not to come again."""
        self._deleted[ident] = None
        while len(self._deleted) > MAX_DELETED:
            self._deleted.popitem(last=False)
        self._drop(ident)

    async def settled(self, ident: str) -> None:
        """Wait until there is no copy of it here: it has ended, or somebody makes it again."""
        try:
            async with asyncio.timeout(SETTLE_S):
                while ident in self._copies:
                    await self._changed.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Go on with what has lost its maker, as long as the node lives."""
        async with asyncio.TaskGroup() as group:
            while True:
                seen = self._peers.version()
                live = self._peers.live()
                self._drop_ended()
                for copy in [one for one in self._copies.values() if live.get(one.maker) != one.boot]:
                    if copy.id not in self._taking:
                        self._taking[copy.id] = group.create_task(self._go_on(copy))
                await self._peers.changed(seen)

    async def _go_on(self, copy: Copy) -> None:
        try:
            if copy.usable:
                log.info("node %s is gone: going on with %s", copy.maker, copy.id)
                await self._take_over(copy)
        except ExoError as error:
            log.warning("%s cannot be gone on with: %s", copy.id, error.message)
        finally:
            self._taking.pop(copy.id, None)
            self._drop(copy.id)

    def _drop_ended(self) -> None:
        oldest = self._clock() - self._lasts_s
        for copy in [*self._copies.values()]:
            if copy.heard < oldest and copy.id not in self._taking:
                self._drop(copy.id)

    def _drop(self, ident: str) -> None:
        if self._copies.pop(ident, None) is not None:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
