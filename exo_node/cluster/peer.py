"""What membership needs of a connection to a peer (transport/client.py implements it), and how it is dialled."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

from exo_node.cluster.discovery import Endpoint
from exo_node.errors import ClusterMismatch, ExoError, PeerUnavailable, ProtocolMismatch, WrongNode
from exo_node.types import NodeInfo, NodeState, PeerLink

STAGGER_S = 0.25  # RFC 8305's "connection attempt delay": how long one address may keep the next waiting


class View(Protocol):
    @property
    def nodes(self) -> Mapping[str, NodeInfo]: ...


class PeerHandle(Protocol):
    """One peer at one address. All methods raise `ExoError` subclasses."""

    address: str
    port: int

    @property
    def info(self) -> NodeInfo: ...

    async def connect(self, timeout: float) -> NodeInfo: ...

    async def close(self) -> None: ...

    async def renew(self) -> None: ...

    def watch(self, silence: float) -> AsyncGenerator[NodeState, None]: ...

    async def collect_topology(self, visited: set[str] | None = None, max_depth: int = 4) -> View: ...

    async def health_check(self, timeout: float) -> bool: ...

    async def probe_link(self) -> PeerLink: ...

    async def call(self, method: str, request: Any, timeout: float) -> Any: ...

    def stream(self, method: str, request: Any, timeout: float | None) -> AsyncGenerator[Any, None]: ...


Dial = Callable[[str, int, str], PeerHandle]  # host, port, node id ("" = any node)


REFUSALS = (ClusterMismatch, ProtocolMismatch, WrongNode)


async def resolve(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Host names to IP literals, each once, in order. Raises `PeerUnavailable` when none of them has an address."""
    found: dict[Endpoint, None] = {}
    problem = "no address is known"
    for endpoint in endpoints:
        if _is_literal(endpoint.host):
            found[endpoint] = None
            continue
        try:
            answers = await asyncio.get_running_loop().getaddrinfo(
                endpoint.host, endpoint.port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            problem = f"{endpoint.host}: {error.strerror or error}"
            continue
        for *_, address in answers:
            literal = str(address[0])
            scope = f"%{address[3]}" if len(address) == 4 and address[3] and "%" not in literal else ""
            found[Endpoint(literal + scope, endpoint.port)] = None
    if not found:
        raise PeerUnavailable(f"cannot resolve the peer's address: {problem}")
    return list(found)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def connect_any(dial: Dial, endpoints: Sequence[Endpoint], node_id: str, timeout: float) -> PeerHandle:
    """Connect to the first of a node's endpoints that answers as `node_id` ("" = any node).

    The next is tried whenever one fails or takes longer than `STAGGER_S` (RFC 8305).

    Raises the most telling failure: a refusal before an unreachable address.
    """
    failures: list[ExoError] = []
    found = await _first(dial, await resolve(endpoints), node_id, timeout, failures)
    if found is not None:
        return found
    try:
        raise min(failures, key=lambda error: not isinstance(error, REFUSALS))
    finally:
        failures.clear()  # its traceback keeps this frame: without a collection each failed connection would be kept


async def _first(
    dial: Dial, endpoints: Sequence[Endpoint], node_id: str, timeout: float, failures: list[ExoError]
) -> PeerHandle | None:
    waiting = list(endpoints)
    running: set[asyncio.Task[PeerHandle]] = set()
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(_connect(dial, waiting.pop(0), node_id, timeout)))
            done, running = await asyncio.wait(
                running, timeout=STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            winners = [task.result() for task in done if task.exception() is None]
            for task in done:
                error = task.exception()
                if isinstance(error, ExoError):
                    failures.append(error)
                elif error is not None:
                    raise error
            for spare in winners[1:]:
                await spare.close()
            if winners:
                return winners[0]
    finally:
        for task in running:
            task.cancel()
        for late in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(late, BaseException):
                await late.close()
    return None


async def _connect(dial: Dial, endpoint: Endpoint, node_id: str, timeout: float) -> PeerHandle:
    handle = dial(endpoint.host, endpoint.port, node_id)
    info = await handle.connect(timeout)
    if node_id and info.node_id != node_id:
        await handle.close()
        raise WrongNode(f"at {endpoint} answers node {info.node_id!r}, not {node_id!r}")
    return handle
