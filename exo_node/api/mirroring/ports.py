"""What mirroring needs of the cluster, and what it answers to it. The daemon joins them (`exo_node/mirror_link.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from exo_node.api.mirroring.choice import NOTHING, Has
from exo_node.api.mirroring.log import Part
from exo_node.errors import PeerUnavailable

Act = Literal["find", "get", "chain", "cancel", "delete"]
# Why a part was not taken: a newer maker is known; something before it is missing; there is no room; its maker is not
# known to live, so that nobody would miss it; it was deleted.
Refusal = Literal["superseded", "gap", "full", "stranger", "deleted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """About a response, for the key that `asker` stands for (asker.py)."""

    id: str
    asker: str
    act: Act


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """`body`: JSON, as the act gives it."""

    has: Has = NOTHING
    body: bytes = b""


class PeersPort(Protocol):
    """The other nodes. Every call may raise `ExoError`."""

    node_id: str
    boot_id: str

    def sign(self, proof: bytes) -> str:
        """See `asker.py`; "" where no other node would understand it."""
        ...

    def live(self) -> Mapping[str, str]:
        """The boot id of every live peer, by node id."""
        ...

    def version(self) -> int:
        """Changes with `live`, at least."""
        ...

    async def changed(self, seen: int) -> None:
        """Wait until `version` differs from `seen`."""
        ...

    async def send(self, node: str, parts: Sequence[Part], timeout: float) -> Mapping[str, str]:
        """Parts for the mirror, in order; those refused (`Refusal`) by the log's id."""
        ...

    async def ask(self, node: str, question: Question, timeout: float) -> Answered: ...

    def follow(
        self, node: str, ident: str, asker: str, after: int, timeout: float
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Events above `after`: the number of the last one, and all of them. Ends with the answer's last event."""
        ...


class ResponseHost(Protocol):
    """What this node answers to its peers. May raise `ExoError`."""

    def take(self, parts: Sequence[Part]) -> Mapping[str, str]:
        """See `PeersPort.send`."""
        ...

    async def asked(self, question: Question) -> Answered: ...

    def followed(self, ident: str, asker: str, after: int) -> AsyncGenerator[tuple[int, bytes], None]: ...


class Alone:
    """`PeersPort` of a node that has no others."""

    boot_id = ""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id

    def sign(self, proof: bytes) -> str:
        return ""

    def live(self) -> Mapping[str, str]:
        return {}

    def version(self) -> int:
        return 0

    async def changed(self, seen: int) -> None:
        await asyncio.Event().wait()

    async def send(self, node: str, parts: Sequence[Part], timeout: float) -> Mapping[str, str]:
        raise PeerUnavailable(f"no node {node}")

    async def ask(self, node: str, question: Question, timeout: float) -> Answered:
        raise PeerUnavailable(f"no node {node}")

    async def follow(
        self, node: str, ident: str, asker: str, after: int, timeout: float
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        raise PeerUnavailable(f"no node {node}")
        yield


async def met(peers: PeersPort) -> AsyncGenerator[list[str], None]:
    """For ever: the nodes that are here now, and were not (or are started anew), whenever there are any."""
    known: Mapping[str, str] = {}
    while True:
        seen, live = peers.version(), peers.live()
        fresh, known = [node for node, boot in live.items() if known.get(node) != boot], live
        if fresh:
            yield fresh
        await peers.changed(seen)
