"""Dialling a node that has several addresses."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, cast

import pytest

from exo_node.cluster.discovery import Endpoint
from exo_node.cluster.peer import Dial, connect_any, resolve
from exo_node.errors import ClusterMismatch, ExoError, PeerUnavailable, WrongNode
from exo_node.types import NodeInfo


def info(node_id: str) -> NodeInfo:
    return NodeInfo(
        node_id=node_id, boot_id="b", name="", version="", addresses=(), grpc_port=1, api_port=1, engines=(),
        devices=(), memory_total=0, memory_free=0,
    )  # fmt: skip


@dataclasses.dataclass
class FakePeer:
    """Answers as a node, fails, or (None) never answers."""

    address: str
    answer: str | ExoError | None
    open: bool = False

    async def connect(self, timeout: float) -> NodeInfo:
        if self.answer is None:
            await asyncio.sleep(3600)
        if isinstance(self.answer, ExoError):
            raise self.answer
        self.open = True
        return info(str(self.answer))

    async def close(self) -> None:
        self.open = False


class Network:
    """Fake peers by address; remembers whom it dialled."""

    def __init__(self, **answers: str | ExoError | None) -> None:
        self.dialled: list[FakePeer] = []
        self._answers = {f"10.0.0.{name[1:]}": answer for name, answer in answers.items()}

    def dial(self, address: str, port: int, node_id: str) -> Any:
        self.dialled.append(FakePeer(address, self._answers[address]))
        return self.dialled[-1]

    async def connect(self, node_id: str = "bob") -> str:
        endpoints = [Endpoint(address, 1) for address in self._answers]
        handle = await connect_any(cast(Dial, self.dial), endpoints, node_id, 5.0)
        return handle.address


async def test_first_that_answers() -> None:
    """Addresses are tried in order; the first that answers wins and no other is bothered."""
    network = Network(a1=PeerUnavailable("x"), a2="bob", a3="bob")
    assert await network.connect() == "10.0.0.2"
    assert len(network.dialled) == 2


async def test_silent_address_does_not_hold_up_the_next() -> None:
    """An address that swallows packets costs a quarter of a second, not the timeout."""
    async with asyncio.timeout(3):
        assert await Network(a1=None, a2=None, a3="bob").connect() == "10.0.0.3"


async def test_somebody_else_answers() -> None:
    """A node that is not the one wanted is hung up on, and the next address tried."""
    network = Network(a1="eve", a2="bob")
    assert await network.connect() == "10.0.0.2"
    assert [peer.open for peer in network.dialled] == [False, True]
    with pytest.raises(WrongNode, match="answers node 'eve', not 'bob'"):
        await Network(a1="eve").connect()
    assert await Network(a1="eve").connect("") == "10.0.0.1"


async def test_most_telling_failure() -> None:
    """A refusal says more than an unreachable address."""
    with pytest.raises(ClusterMismatch):
        await Network(a1=PeerUnavailable("x"), a2=ClusterMismatch("y"), a3=PeerUnavailable("z")).connect()


async def test_resolve() -> None:
    """Literals stay as they are, scope included; names become addresses; no address at all is the peer's problem."""
    assert await resolve([Endpoint("fe80::1%lo", 1), Endpoint("10.0.0.1", 1)]) == [
        Endpoint("fe80::1%lo", 1), Endpoint("10.0.0.1", 1)
    ]  # fmt: skip
    assert Endpoint("127.0.0.1", 1) in await resolve([Endpoint("localhost", 1)])
    with pytest.raises(PeerUnavailable, match="resolve"):
        await resolve([Endpoint("no-such-host.invalid", 1)])
