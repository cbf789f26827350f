"""Discovery by multicast DNS (RFC 6762, 6763): every node announces `_exo._tcp.local.` and listens for it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping

from zeroconf import DNSQuestionType, IPVersion, NonUniqueNameException, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from exo_node.cluster import interfaces
from exo_node.cluster.discovery import Announcement, DiscoveryEvent, Endpoint, PeerGone, PeerSeen
from exo_node.cluster.identity import NODE_ID
from exo_node.errors import ConfigurationError

log = logging.getLogger("exo.mdns")

SERVICE = "_exo._tcp.local."
FINGERPRINT = re.compile(r"[0-9a-f]{0,64}")
POLL_S = 1.0  # how soon a change of interfaces is noticed
RESOLVE_MS = 3000


class MdnsDiscovery:
    """Announces this node and reports the others, on every interface, loopback included.

    An announcement's name holds the boot id, so a restarted node is a new announcement and never mixes with what caches
    remember of its former life. When the machine's addresses change, or what we announce, everything is set up anew.
    """

    def __init__(self, announce: Callable[[], Announcement], *, listen: str = "", poll_s: float = POLL_S) -> None:
        """`announce` is read at every set-up; `listen` is the address that our gRPC server is bound to."""
        self._announce = announce
        self._listen = listen
        self._poll_s = poll_s
        self._queue: asyncio.Queue[DiscoveryEvent] = asyncio.Queue()
        self._seen: set[str] = set()
        self._resolving: set[asyncio.Task[None]] = set()
        self._zeroconf: AsyncZeroconf | None = None
        self._announced: Announcement | None = None
        self._poller: asyncio.Task[None] | None = None

    async def start(self) -> None:
        found = interfaces.addresses()
        try:
            await self._open(found)
        except OSError as error:
            raise ConfigurationError(
                f"mDNS cannot start ({error.strerror or error}); use --discovery-module manual or none with --peer"
            ) from error
        self._poller = asyncio.create_task(self._poll(found), name="mdns interfaces")

    async def stop(self) -> None:
        """Say goodbye on every interface and close."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
            self._poller = None
        await self._close()

    async def events(self) -> AsyncIterator[DiscoveryEvent]:
        while True:
            yield await self._queue.get()

    async def _poll(self, found: tuple[interfaces.Address, ...]) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            current = interfaces.addresses()
            if current == found and self._announced == self._announce() and self._zeroconf is not None:
                continue
            log.info("this machine's addresses or its cluster's name changed: announcing anew")
            await self._close()
            for name in self._seen:
                self._queue.put_nowait(PeerGone(source="mdns", key=name))
            self._seen.clear()
            try:
                await self._open(current)
            except OSError as error:  # an address vanished under us: the next round tries again
                log.warning("mDNS cannot start on the new addresses: %s", error)
                await self._close()
            found = current

    async def _open(self, found: tuple[interfaces.Address, ...]) -> None:
        speak_on = interfaces.multicast_addresses(found)
        if not speak_on:
            return
        versions = {ipaddress.ip_address(address).version for address in speak_on}
        version = {frozenset({4}): IPVersion.V4Only, frozenset({6}): IPVersion.V6Only}.get(
            frozenset(versions), IPVersion.All
        )
        self._zeroconf = AsyncZeroconf(interfaces=speak_on, ip_version=version)
        me = self._announced = self._announce()
        info = _service_info(me, interfaces.announced(found, self._listen), self._token(me))
        # The name is unique by its boot id: no need to spend 0.5 s and more on probing for it.
        with contextlib.suppress(NonUniqueNameException):
            await self._zeroconf.async_register_service(info, cooperating_responders=True)
        # Multicast questions only: a unicast answer would reach one of the several processes on port 5353, any of them.
        AsyncServiceBrowser(
            self._zeroconf.zeroconf, SERVICE, handlers=[self._on_change], question_type=DNSQuestionType.QM
        )

    def _token(self, me: Announcement) -> str:
        """Lets nodes of one host prefer loopback; empty when our server does not listen there."""
        return interfaces.host_token(me.fingerprint) if self._listen in interfaces.WILDCARDS else ""

    async def _close(self) -> None:
        for task in self._resolving:
            task.cancel()
        await asyncio.gather(*self._resolving, return_exceptions=True)
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is not None:
            await zeroconf.async_close()

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        me = self._announce()
        if name == _name(me.node_id, me.boot_id):
            return
        if state_change is ServiceStateChange.Removed:
            if name in self._seen:
                self._seen.discard(name)
                self._queue.put_nowait(PeerGone(source="mdns", key=name))
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._report(info, me)
            return
        task = asyncio.get_running_loop().create_task(self._resolve(zeroconf, info, me), name=f"resolve {name}")
        self._resolving.add(task)
        task.add_done_callback(self._resolving.discard)

    async def _resolve(self, zeroconf: Zeroconf, info: AsyncServiceInfo, me: Announcement) -> None:
        if await info.async_request(zeroconf, RESOLVE_MS, question_type=DNSQuestionType.QM):
            self._report(info, me)

    def _report(self, info: AsyncServiceInfo, me: Announcement) -> None:
        seen = read_service(info.name, info.decoded_properties, info.parsed_scoped_addresses(), self._token(me))
        if seen is None:
            log.debug("not an exo-node announcement: %s", info.name)
            return
        self._seen.add(info.name)
        self._queue.put_nowait(seen)


def _name(node_id: str, boot_id: str) -> str:
    return f"{node_id}-{boot_id[:8]}.{SERVICE}"


def _service_info(me: Announcement, literals: tuple[str, ...], token: str) -> AsyncServiceInfo:
    name = _name(me.node_id, me.boot_id)
    return AsyncServiceInfo(
        SERVICE,
        name,
        port=me.grpc_port,
        # Scopes mean something only on our side; a receiver adds the interface on which it heard us.
        parsed_addresses=list(dict.fromkeys(literal.partition("%")[0] for literal in literals)),
        server=f"{name.removesuffix(SERVICE)}local.",
        properties={
            "node_id": me.node_id,
            "boot_id": me.boot_id,
            "cluster": me.fingerprint,
            "version": me.version,
            "protocol": f"{me.protocol_min}-{me.protocol_max}",
            "grpc_port": str(me.grpc_port),
            "api_port": str(me.api_port),
            "host": token,
        },
    )


def read_service(name: str, properties: Mapping[str, str | None], literals: list[str], token: str) -> PeerSeen | None:
    """What an announcement says; None if a field is missing or malformed (anybody may announce anything)."""
    node_id, boot_id = properties.get("node_id"), properties.get("boot_id")
    low, _, high = (properties.get("protocol") or "").partition("-")
    port = properties.get("grpc_port") or ""
    if not (node_id and boot_id and low.isdecimal() and high.isdecimal() and port.isdecimal()):
        return None
    cluster = properties.get("cluster") or ""
    # Both are shown to people: no control characters, nothing that looks like more than a name.
    if not 0 < int(port) < 65536 or not NODE_ID.fullmatch(node_id) or not FINGERPRINT.fullmatch(cluster):
        return None
    # Of a link-local address heard over another interface (IPv4, say) we do not know where it is.
    literals = [one for one in literals if "%" in one or not ipaddress.ip_address(one).is_link_local or "." in one]
    if token and properties.get("host") == token:
        literals = ["127.0.0.1", *literals]  # the same host: no network in between
    return PeerSeen(
        source="mdns",
        key=name,
        endpoints=tuple(Endpoint(literal, int(port)) for literal in dict.fromkeys(literals)),
        node_id=node_id,
        boot_id=boot_id,
        fingerprint=cluster,
        version=properties.get("version") or "",
        protocol=(int(low), int(high)),
    )
