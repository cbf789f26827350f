"""Questions over one call that streams both ways, over real gRPC on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from exo_node.errors import DeadlineExceeded, InvalidRequest, NotFound, PeerUnavailable
from exo_node.transport.client import GRPCPeerHandle
from exo_node.transport.exchange import Exchange
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from tests.integration.control_plane import ControlNode, party


class Echo:
    """Says the maker's name back; `node_id` "wrong" is refused."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def take(self, request: pb.MirrorResponsesRequest) -> pb.MirrorResponsesResponse:
        if request.node_id == "wrong":
            raise InvalidRequest("wrong")
        self.heard.append(request.node_id)
        return pb.MirrorResponsesResponse(refused={request.node_id: "gap"})


@asynccontextmanager
async def exchange() -> AsyncIterator[tuple[ControlNode, GRPCPeerHandle, Exchange, Echo]]:
    async with ControlNode(party("bob")).serving() as bob:
        echo: Any = Echo()
        assert bob.servicer is not None
        bob.servicer._answers = echo
        handle = ControlNode(party("ann")).handle("127.0.0.1", bob.port)
        await handle.connect()
        made = Exchange(handle, "MirrorResponses")
        yield bob, handle, made, echo
        made.close()
        await handle.close()


async def say(made: Exchange, word: str, timeout: float = 5) -> list[str]:
    return list((await made.ask(pb.MirrorResponsesRequest(node_id=word), timeout)).refused)


async def test_questions_in_turn() -> None:
    """Each has its answer; an error ends the call, and the next question opens another."""
    async with exchange() as (bob, _, made, echo):
        assert [await say(made, word) for word in ("a", "b")] == [["a"], ["b"]]
        with pytest.raises(InvalidRequest, match="wrong"):
            await say(made, "wrong")
        assert await say(made, "c") == ["c"]
        made.close()
        assert bob.servicer is not None
        bob.servicer.sessions.clear()  # as after a restart
        assert await say(made, "d") == ["d"]
        assert echo.heard == ["a", "b", "c", "d"]


async def test_a_peer_that_is_gone() -> None:
    """The wait ends with the connection, or with the time."""
    async with exchange() as (bob, handle, made, _):
        assert await say(made, "a") == ["a"]
        with pytest.raises(DeadlineExceeded):
            await say(made, "b", 0)
        assert bob.servicer is not None
        bob.servicer._answers = None
        with pytest.raises(NotFound):
            await say(made, "c")
        await handle.close()
        with pytest.raises(PeerUnavailable):
            await say(made, "d")
