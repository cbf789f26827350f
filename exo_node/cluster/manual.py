"""Discovery without multicast: a peers file in exo's shape, and peers named on the command line."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from exo_node.cluster.discovery import DiscoveryEvent, Endpoint, PeerGone, PeerSeen
from exo_node.errors import ConfigurationError

log = logging.getLogger("exo.manual")

POLL_S = 1.0
CAPABILITIES: Mapping[str, type | tuple[type, ...]] = {"model": str, "chip": str, "memory": (int, float), "flops": dict}


class StaticPeers:
    """`--peer HOST:PORT`, any number of them. Says each once; whoever dials retries and resolves host names."""

    def __init__(self, peers: Sequence[str]) -> None:
        """Raises `ConfigurationError` for what is no HOST:PORT."""
        self._endpoints = [parse_endpoint(peer, "--peer") for peer in peers]

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def events(self) -> AsyncIterator[DiscoveryEvent]:
        for endpoint in self._endpoints:
            yield PeerSeen(source="peer", key=str(endpoint), endpoints=(endpoint,))


class ManualDiscovery:
    """The peers file, re-read when changed: `{"peers": {id: {"address": .., "port": .., "device_capabilities": {}}}}`.

    `device_capabilities` is checked for exo's shape and otherwise left alone: every node tells its own.
    """

    def __init__(self, path: Path, *, node_id: str, poll_s: float = POLL_S) -> None:
        """`node_id` is ours, so that one file may serve every machine."""
        self._path = path
        self._node_id = node_id
        self._poll_s = poll_s
        self._peers: dict[str, Endpoint] = {}
        self._stamp: tuple[int, ...] = ()

    async def start(self) -> None:
        """Read the file once; raises `ConfigurationError` naming file and field."""
        self._stamp = self._stat()
        self._peers = self._read()

    async def stop(self) -> None: ...

    async def events(self) -> AsyncIterator[DiscoveryEvent]:
        for node_id, endpoint in self._peers.items():
            yield self._seen(node_id, endpoint)
        while True:
            await asyncio.sleep(self._poll_s)
            stamp = self._stat()
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                peers = self._read()
            except ConfigurationError as error:
                log.error("%s; going on with the %d peers known before", error, len(self._peers))
                continue
            for node_id in self._peers.keys() - peers.keys():
                yield PeerGone(source="manual", key=node_id)
            for node_id, endpoint in peers.items():
                if self._peers.get(node_id) != endpoint:
                    yield self._seen(node_id, endpoint)
            self._peers = peers

    def _seen(self, node_id: str, endpoint: Endpoint) -> PeerSeen:
        return PeerSeen(source="manual", key=node_id, endpoints=(endpoint,), node_id=node_id)

    def _stat(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> dict[str, Endpoint]:
        try:
            text = self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"peers file {self._path} cannot be read: {error}") from error
        peers = parse_peers(text, str(self._path))
        peers.pop(self._node_id, None)
        return peers


def parse_peers(text: str, where: str) -> dict[str, Endpoint]:
    """The peers of a file's text. Raises `ConfigurationError` in one line with `where` and the field."""

    def wrong(field: str, problem: str) -> ConfigurationError:
        return ConfigurationError(f"peers file {where}: {field} {problem}")

    try:
        data = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"peers file {where} is no JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("peers"), dict):
        raise wrong("peers", 'must be an object: {"peers": {id: {"address": .., "port": ..}}}')
    if unknown := data.keys() - {"peers"}:
        raise wrong(min(unknown), "is not known")
    peers: dict[str, Endpoint] = {}
    for node_id, peer in data["peers"].items():
        field = f"peers.{node_id}"
        if not isinstance(peer, dict):
            raise wrong(field, "must be an object with address and port")
        if unknown := peer.keys() - {"address", "port", "device_capabilities"}:
            raise wrong(f"{field}.{min(unknown)}", "is not known")
        address, port = peer.get("address"), peer.get("port")
        if not isinstance(address, str) or not address or re.search(r"[\s/]", address):
            raise wrong(f"{field}.address", "must be an IP address or a host name")
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
            raise wrong(f"{field}.port", "must be a number from 1 to 65535")
        _check_capabilities(peer.get("device_capabilities", {}), f"{field}.device_capabilities", wrong)
        peers[node_id] = Endpoint(address, port)
    return peers


def _check_capabilities(value: Any, field: str, wrong: Any) -> None:
    if not isinstance(value, dict):
        raise wrong(field, "must be an object")
    for name, kind in CAPABILITIES.items():
        if name in value and not isinstance(value[name], kind):
            raise wrong(f"{field}.{name}", "is of the wrong type")


def parse_endpoint(text: str, flag: str) -> Endpoint:
    """`HOST:PORT`, `[IPv6]:PORT`. Raises `ConfigurationError` naming the flag.

    >>> parse_endpoint("[fe80::1%eth0]:5000", "--peer")
    Endpoint(host='fe80::1%eth0', port=5000)
    """
    host, _, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not host or not port.isdecimal() or not 0 < int(port) < 65536 or (":" in host and not bracketed):
        raise ConfigurationError(f"{flag} {text!r} is no HOST:PORT (IPv6 goes in brackets: [fe80::1%eth0]:5000)")
    return Endpoint(host, int(port))
