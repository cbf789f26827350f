"""One peer's life: dialled, followed on its control stream, repaired, lost, dialled again (table: states.py)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable

from exo_node.cluster.discovery import Endpoint
from exo_node.cluster.peer import REFUSALS, Dial, PeerHandle, connect_any
from exo_node.cluster.sightings import Sightings
from exo_node.cluster.states import HERE, Event, State, following
from exo_node.errors import ExoError
from exo_node.types import NodeState, PeerLink

log = logging.getLogger("exo.members")

CONNECT_TIMEOUT_S = 5.0
REDIAL_TIMEOUT_S = 0.2  # a broken stream with a living peer behind it is repaired within this, or the peer is lost
STEADY_S = 1.0  # a stream that broke sooner than this after the last repair is not repaired again
RETIRED_KEPT = 2  # connections whose control stream broke, kept for the calls that run on them
BACKOFF_S = (0.2, 2.0)  # first and longest pause between dials; 2 s keeps a returning node below 5 s
LONG_BACKOFF_S = 15.0  # after a minute of failures: caches announce dead nodes for up to 20 minutes
PATIENCE_S = 60.0
HEARSAY_TRIES = 5  # dials, about 4 s
ALIVE_TIMEOUT_S = 0.5


class Backoff:
    """Pauses that double from the first to the longest, with jitter, so that nodes do not dial in step."""

    def __init__(self) -> None:
        self._next = BACKOFF_S[0]

    def next(self) -> float:
        """Seconds to wait now."""
        pause, self._next = self._next, min(BACKOFF_S[1], self._next * 2)
        return pause * random.uniform(0.75, 1.0)


class PeerKeeper:
    """`run` until nobody announces the peer any more and it does not answer. All reading is of plain attributes.

    `told` is the latest state on the peer's control stream, `link` our way to it; both only while it is a member.
    """

    def __init__(
        self,
        node_id: str,
        *,
        dial: Dial,
        sightings: Sightings,
        publish: Callable[[], None],
        hear: Callable[[NodeState, PeerHandle], Awaitable[None]],
        silence_s: float,
    ) -> None:
        """`publish` is called after every change; `hear` gets every state that the peer tells."""
        self.node_id = node_id
        self.state = State.SEEN
        self.handle: PeerHandle | None = None
        self.told: NodeState | None = None
        self.link: PeerLink | None = None
        self.problem = ""
        self.news = asyncio.Event()  # set when the peer is announced anew
        self._dial = dial
        self._sightings = sightings
        self._publish = publish
        self._hear = hear
        self._silence_s = silence_s
        self._failures = 0
        self._failing_since = 0.0
        self._online = asyncio.Event()

    @property
    def is_here(self) -> bool:
        return self.state in HERE and self.told is not None

    def _apply(self, event: Event) -> None:
        self.state = following(self.state, event)

    async def run(self) -> None:
        pause = Backoff()
        while endpoints := self._sightings.endpoints(self.node_id):
            self.news.clear()
            self._apply(Event.DIAL)
            try:
                handle = await connect_any(self._dial, endpoints, self.node_id, CONNECT_TIMEOUT_S)
            except ExoError as error:
                self._apply(Event.TURNED_DOWN if isinstance(error, REFUSALS) else Event.DIAL_FAILED)
                self._failed(error)
            else:
                await self._attend(handle)
            if not self._failures:
                pause = Backoff()
            delay = pause.next()
            if self._failures and time.monotonic() - self._failing_since > PATIENCE_S:
                delay = LONG_BACKOFF_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self.news.wait()
                pause = Backoff()

    async def give_up(self) -> None:
        """After `run` has failed: it is no member, and has no connection."""
        handle, self.handle, self.told, self.link = self.handle, None, None, None
        if handle is not None:
            await handle.close()

    def _failed(self, error: ExoError) -> None:
        if not self._failures:
            self._failing_since = time.monotonic()
        self._failures += 1
        if self.problem != error.message:
            self.problem = error.message
            level = logging.WARNING if isinstance(error, REFUSALS) else logging.INFO
            log.log(level, "node %s cannot join: %s", self.node_id, error.message)
            self._publish()
        if self._failures >= HEARSAY_TRIES:
            self._sightings.drop_hearsay(self.node_id)

    async def _attend(self, handle: PeerHandle) -> None:
        """Follow the control stream of a connected peer, across short breaks, until it is lost."""
        boot_id = handle.info.boot_id
        retired: deque[PeerHandle] = deque()
        while True:
            self.handle = handle
            begun = time.monotonic()
            ended = await self._follow(handle, boot_id)
            if ended is not Event.STREAM_BROKEN:
                break
            if self.state is not State.ONLINE:  # it broke before it said anything
                ended = Event.DIAL_FAILED
                break
            log.info("the control stream of node %s broke (%s): trying once more", self.node_id, self.problem)
            self._apply(Event.STREAM_BROKEN)
            again = await self._redial(handle, boot_id) if time.monotonic() - begun > STEADY_S else None
            if again is None:
                ended = Event.DIAL_FAILED
                break
            # Calls that run on the old connection may still end well: a peer late with its beats is no dead one.
            retired.append(handle)
            if len(retired) > RETIRED_KEPT:
                await retired.popleft().close()
            handle = again
        was_here = self.is_here
        self._apply(ended)
        self.handle = self.told = self.link = None
        self._online.clear()
        await asyncio.gather(*(one.close() for one in (handle, *retired)))
        if ended in (Event.LEFT, Event.REBOOTED):
            self._sightings.drop_boot(self.node_id, boot_id)
            self._sightings.drop_hearsay(self.node_id)
        if was_here:
            log.info("node %s is gone (%s)", self.node_id, self.problem or ended.value)
            self._publish()
        else:
            self._failures += 1

    async def _redial(self, handle: PeerHandle, boot_id: str) -> PeerHandle | None:
        """The same peer, same boot, same address; None unless that works at once."""
        endpoint = Endpoint(handle.address, handle.port)
        try:
            again = await connect_any(self._dial, [endpoint], self.node_id, REDIAL_TIMEOUT_S)
        except ExoError as error:
            self.problem = error.message
            return None
        if again.info.boot_id == boot_id:
            return again
        await again.close()
        return None

    async def _follow(self, handle: PeerHandle, boot_id: str) -> Event:
        """Take in the control stream until it ends; tells how."""
        stream = asyncio.create_task(self._read(handle), name=f"watch {self.node_id}")
        reboot = asyncio.create_task(self._rebooted(handle, boot_id), name=f"reboot of {self.node_id}")
        probe = asyncio.create_task(self._probe(handle), name=f"probe {self.node_id}")
        try:
            await asyncio.wait((stream, reboot), return_when=asyncio.FIRST_COMPLETED)
            if stream.done():
                return stream.result()
            return Event.REBOOTED if self.state in HERE else Event.STREAM_BROKEN
        finally:
            for task in (stream, reboot, probe):
                task.cancel()
            await asyncio.gather(stream, reboot, probe, return_exceptions=True)

    async def _read(self, handle: PeerHandle) -> Event:
        try:
            async with contextlib.aclosing(handle.watch(self._silence_s)) as states:
                async for told in states:
                    if told.leaving:
                        self.problem = ""
                        return Event.LEFT
                    self._take_in(told, handle)
                    await self._hear(told, handle)
        except ExoError as error:
            self.problem = error.message
        return Event.STREAM_BROKEN

    def _take_in(self, told: NodeState, handle: PeerHandle) -> None:
        if self.state is not State.ONLINE:
            self._apply(Event.CONNECTED)
            self._failures, self.problem = 0, ""
            self.link = PeerLink(self.node_id, address=handle.address)
            self._online.set()
            log.info("node %s is here, at %s", self.node_id, Endpoint(handle.address, handle.port))
        elif told == self.told:
            return
        self.told = told
        self._publish()

    async def _rebooted(self, handle: PeerHandle, boot_id: str) -> None:
        """Returns when the peer is announced under a later boot id and the connected one does not answer."""
        while True:
            await self.news.wait()
            self.news.clear()
            boot_ids = self._sightings.boot_ids(self.node_id)
            if boot_ids and boot_ids[-1] != boot_id and not await handle.health_check(ALIVE_TIMEOUT_S):
                self.problem = "it restarted"
                self.news.set()
                return

    async def _probe(self, handle: PeerHandle) -> None:
        """Measure the link, once a connection, when the peer is a member."""
        await self._online.wait()
        try:
            measured = await handle.probe_link()
        except (ExoError, TimeoutError) as error:
            log.debug("link probe of %s: %s", self.node_id, error)
            return
        self.link = PeerLink(
            self.node_id, rtt_us=measured.rtt_us, bytes_per_s=measured.bytes_per_s, address=handle.address
        )
        self._publish()
