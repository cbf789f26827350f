"""Who is in the cluster: every announced node is dialled and kept by a `PeerKeeper`; this owns their tasks.

Decisions are in pure parts (states.py, sightings.py), a peer's life is in keeper.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

from exo_node.cluster import interfaces
from exo_node.cluster.discovery import Discovery, DiscoveryEvent, Endpoint, PeerGone, PeerSeen, Source
from exo_node.cluster.keeper import CONNECT_TIMEOUT_S, Backoff, PeerKeeper
from exo_node.cluster.peer import Dial, PeerHandle, connect_any
from exo_node.cluster.sightings import Sightings
from exo_node.errors import ExoError, PeerUnavailable
from exo_node.jobs import PAUSE_S, lasting
from exo_node.signals import ChangeSignal
from exo_node.types import NodeInfo, NodeState, PeerLink

log = logging.getLogger("exo.members")

SILENCE_S = 2.0  # peers beat twice a second
ADDRESSES_FRESH_S = 1.0


class Me(Protocol):
    """Who we are (transport's `NodeIdentity`)."""

    @property
    def node_id(self) -> str: ...
    @property
    def boot_id(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def fingerprints(self) -> Collection[str]: ...


class ClusterMembers:
    """The members of our cluster. `run` for as long as the node lives, then `close`."""

    def __init__(
        self,
        *,
        me: Me,
        dial: Dial,
        changed: Callable[[], None],
        discoveries: Sequence[Discovery] = (),
        listen: str = "",
        silence_s: float = SILENCE_S,
    ) -> None:
        """`dial` makes an unconnected handle; `changed` is called after every change of what the methods return.

        `listen` is the address that our gRPC server is bound to. A peer that hangs is lost after `silence_s` seconds.
        """
        self._me = me
        self._dial = dial
        self._changed = changed
        self._discoveries = discoveries
        self._listen = listen
        self._silence_s = silence_s
        self._sightings = Sightings(me.node_id, lambda: me.fingerprints)
        self._keepers: dict[str, PeerKeeper] = {}
        self._group: asyncio.TaskGroup | None = None
        self._signal = ChangeSignal()
        self._problems: dict[str, str] = {}
        self._addresses: tuple[float, tuple[str, ...]] = (-math.inf, ())

    # -- what is known -------------------------------------------------------------------------------------------

    def states(self) -> Mapping[str, NodeState]:
        """The latest state of every live peer, by id."""
        return {one.node_id: one.told for one in self._keepers.values() if one.is_here and one.told is not None}

    def peer(self, node_id: str) -> PeerHandle:
        """The connection to a live peer. Raises `PeerUnavailable`."""
        keeper = self._keepers.get(node_id)
        if keeper is None or not keeper.is_here or keeper.handle is None:
            why = f" ({keeper.problem})" if keeper is not None and keeper.problem else ""
            raise PeerUnavailable(f"node {node_id} is not connected{why}")
        return keeper.handle

    def links(self) -> tuple[PeerLink, ...]:
        """Our links to live peers, with the address that we use and what was measured."""
        return tuple(one.link for one in self._keepers.values() if one.is_here and one.link is not None)

    def addresses(self) -> tuple[str, ...]:
        """IP literals at which this machine can be reached now, best first; read from the kernel once a second."""
        if time.monotonic() - self._addresses[0] > ADDRESSES_FRESH_S:
            self._addresses = (time.monotonic(), interfaces.announced(interfaces.addresses(), self._listen))
        return self._addresses[1]

    def foreign(self) -> list[PeerSeen]:
        """Announced nodes of other clusters: listed, never dialled."""
        return self._sightings.foreign()

    def problems(self) -> dict[str, str]:
        """Why announced nodes are not members, by id or address."""
        told = {one.node_id: one.problem for one in self._keepers.values() if not one.is_here and one.problem}
        return {**self._problems, **told}

    async def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until `count` peers are live; False when the time is up first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while len(self.states()) < count:
                    await self._signal.wait(self._signal.version)
        return len(self.states()) >= count

    # -- what is heard -------------------------------------------------------------------------------------------

    def greet(self, node: NodeInfo, ip: str) -> None:
        """A member shook hands with us, coming from `ip`: dial it back."""
        self.notice(self._hearsay("greeting", node, ip))

    def _hearsay(self, source: Source, node: NodeInfo, ip: str) -> PeerSeen:
        hosts = dict.fromkeys(host for host in (ip, *node.addresses) if host)
        return PeerSeen(
            source=source,
            key=node.node_id,
            endpoints=tuple(Endpoint(host, node.grpc_port) for host in hosts),
            node_id=node.node_id,
            boot_id=node.boot_id,
            fingerprint=self._me.fingerprint,
        )

    async def _hear_of_others(self, told: NodeState, handle: PeerHandle) -> None:
        """A member that names a peer which we do not know tells us where that is."""
        known = {self._me.node_id, *self._keepers}
        strangers = {link.to_id: link.address for link in told.links if link.to_id not in known}
        if not strangers:
            return
        try:
            view = await handle.collect_topology({told.node.node_id, *known}, 1)
        except ExoError as error:
            log.debug("topology of %s: %s", told.node.node_id, error)
            return
        for node_id in strangers.keys() & view.nodes.keys():
            self.notice(self._hearsay("gossip", view.nodes[node_id], strangers[node_id]))

    def notice(self, event: DiscoveryEvent) -> None:
        """Take in what a discovery says. A withdrawn node that is still connected stays a member."""
        seen = self._sightings.apply(event)
        if seen is None:
            return
        if not self._sightings.is_ours(seen):
            self._publish()
        elif isinstance(event, PeerGone):
            return  # its keeper sees it at the next dial
        elif not seen.node_id:
            if self._group is not None:
                self._group.create_task(lasting(partial(self._find_out, seen)), name=f"find out {seen.key}")
        elif seen.node_id != self._me.node_id:
            self._keep(seen.node_id)
        elif seen.boot_id not in ("", self._me.boot_id):
            self._trouble(seen.key, f"another daemon announces our id {seen.node_id!r}: give one of them --node-id")

    # -- the tasks -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Discover, dial and watch until cancelled. The connections stay usable until `close`.

        Raises `ConfigurationError` when a discovery cannot start.
        """
        started: list[Discovery] = []
        try:
            for discovery in self._discoveries:
                await discovery.start()
                started.append(discovery)
            async with asyncio.TaskGroup() as self._group:
                for discovery in started:
                    self._group.create_task(lasting(partial(self._listen_to, discovery)))
                for node_id in self._sightings.nodes():
                    self._keep(node_id)
                await asyncio.Event().wait()
        finally:
            self._group = None
            await asyncio.gather(*(discovery.stop() for discovery in started))

    async def renew(self) -> None:
        """Replace every connection by one with our present papers; calls that run may end on the old ones."""

        async def one(keeper: PeerKeeper) -> None:
            try:
                if keeper.handle is not None:
                    await keeper.handle.renew()
            except ExoError as error:  # it closed itself; its keeper dials anew
                log.warning("node %s has not taken the new key: %s", keeper.node_id, error.message)

        await asyncio.gather(*(one(keeper) for keeper in self._keepers.values()))

    async def close(self) -> None:
        """End every connection."""
        keepers, self._keepers = list(self._keepers.values()), {}
        await asyncio.gather(*(one.handle.close() for one in keepers if one.handle is not None))

    async def _listen_to(self, discovery: Discovery) -> None:
        async for event in discovery.events():
            self.notice(event)

    def _keep(self, node_id: str) -> None:
        keeper = self._keepers.get(node_id)
        if keeper is not None:
            keeper.news.set()
        elif self._group is not None:
            keeper = self._keepers[node_id] = PeerKeeper(
                node_id,
                dial=self._dial,
                sightings=self._sightings,
                publish=self._publish,
                hear=self._hear_of_others,
                silence_s=self._silence_s,
            )
            self._group.create_task(self._until_forgotten(keeper), name=f"peer {node_id}")

    async def _until_forgotten(self, keeper: PeerKeeper) -> None:
        try:
            await keeper.run()
        except Exception:  # our bug, of which the node and its other peers must not end
            log.exception("what follows node %s failed; it is dialled anew in %g s", keeper.node_id, PAUSE_S)
            await keeper.give_up()
            self._publish()
            await asyncio.sleep(PAUSE_S)
        del self._keepers[keeper.node_id]
        self._publish()
        if keeper.node_id in self._sightings.nodes():
            self._keep(keeper.node_id)

    async def _find_out(self, seen: PeerSeen) -> None:
        """Learn which node is at an address that the user gave, and again whenever that node is not there."""
        pause = Backoff()
        while True:
            try:
                handle = await connect_any(self._dial, seen.endpoints, "", CONNECT_TIMEOUT_S)
            except ExoError as error:
                self._trouble(seen.key, f"peer {seen.key}: {error.message}")
                await asyncio.sleep(pause.next())
                continue
            info, endpoint = handle.info, Endpoint(handle.address, handle.port)
            await handle.close()
            self._problems.pop(seen.key, None)
            if info.node_id == self._me.node_id:
                if info.boot_id != self._me.boot_id:
                    self._trouble(seen.key, f"peer {seen.key} has our id {info.node_id!r}: give one of them --node-id")
                return
            found = PeerSeen(source="peer", key=f"at {seen.key}", endpoints=(endpoint,), node_id=info.node_id)
            self.notice(PeerGone(source="peer", key=found.key))
            self.notice(found)
            await asyncio.sleep(pause.next())
            while info.node_id in self.states():
                pause = Backoff()
                await self._signal.wait(self._signal.version)

    def _trouble(self, key: str, message: str) -> None:
        if self._problems.get(key) != message:
            self._problems[key] = message
            log.warning("%s", message)
            self._publish()

    def _publish(self) -> None:
        self._signal.notify()
        self._changed()
