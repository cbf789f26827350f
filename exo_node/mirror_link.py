"""Background responses on the control plane: `api.mirroring`'s words as protobuf messages, both ways."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol, cast, get_args

from exo_node.api.mirroring.asker import AskerSigner
from exo_node.api.mirroring.choice import Has, State
from exo_node.api.mirroring.log import Part
from exo_node.api.mirroring.ports import Act, Answered, Question, ResponseHost
from exo_node.errors import InvalidRequest, PeerUnavailable
from exo_node.signals import ChangeSignal
from exo_node.transport.exchange import Exchange
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.types import NodeState

_PLAIN = ("id", "term", "head", "head_at", "head_size", "said", "said_at", "ids_at", "ids_model", "model_id", "row",
          "row_at", "row_size")  # fmt: skip


class Peers(Protocol):
    """What is needed of `NodeView`."""

    def states(self) -> Mapping[str, NodeState]: ...

    def peer(self, node_id: str) -> Any: ...


class PeerLink:
    """`api.mirroring.ports.PeersPort`. `secret` is for the askers (asker.py), and another one after a rotation."""

    def __init__(
        self, node_id: str, boot_id: str, view: Peers, changes: ChangeSignal, secret: Callable[[], bytes]
    ) -> None:
        self.node_id, self.boot_id = node_id, boot_id
        self._view, self._changes = view, changes
        self._secret = secret
        self._exchanges: dict[str, Exchange] = {}

    def sign(self, proof: bytes) -> str:
        return AskerSigner(self._secret()).sign(proof)

    def live(self) -> Mapping[str, str]:
        return {node: state.node.boot_id for node, state in self._view.states().items()}

    def version(self) -> int:
        return self._changes.version

    async def changed(self, seen: int) -> None:
        await self._changes.wait(seen)

    async def send(self, node: str, parts: Sequence[Part], timeout: float) -> Mapping[str, str]:
        request = pb.MirrorResponsesRequest(
            node_id=self.node_id, boot_id=self.boot_id, parts=[part_to_pb(one) for one in parts]
        )
        handle, exchange = self._view.peer(node), self._exchanges.get(node)
        if exchange is not None and exchange.handle is handle:
            try:
                return dict((await exchange.ask(request, timeout)).refused)
            except PeerUnavailable:
                pass  # its connection was replaced, or the peer is gone; parts may come twice
        exchange = self._exchanges[node] = Exchange(handle, "MirrorResponses")
        return dict((await exchange.ask(request, timeout)).refused)

    async def ask(self, node: str, question: Question, timeout: float) -> Answered:
        request = pb.AskResponseRequest(id=question.id, asker=question.asker, act=question.act)
        said = await self._view.peer(node).call("AskResponse", request, timeout)
        if said.state not in get_args(State):
            raise InvalidRequest(f"node {node} says {said.state!r} of a response", param="state")
        return Answered(has=Has(cast(State, said.state), said.term), body=said.body_json)

    async def follow(
        self, node: str, ident: str, asker: str, after: int, timeout: float
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        request = pb.FollowResponseRequest(id=ident, asker=asker, after=after)
        async with aclosing(self._view.peer(node).stream("FollowResponse", request, timeout)) as events:
            async for one in events:
                yield one.last, one.frames


class AnswerService:
    """`transport.node_servicer.AnswerHost`; `host` is there when the first call comes."""

    def __init__(self, host: Callable[[], ResponseHost]) -> None:
        self._host = host

    def take(self, request: pb.MirrorResponsesRequest) -> pb.MirrorResponsesResponse:
        parts = [part_from_pb(one, request.node_id, request.boot_id) for one in request.parts]
        return pb.MirrorResponsesResponse(refused=self._host().take(parts))

    async def asked(self, request: pb.AskResponseRequest) -> pb.AskResponseResponse:
        if request.act not in get_args(Act):
            raise InvalidRequest(f"unknown act {request.act!r}", param="act")
        question = Question(id=request.id, asker=request.asker, act=cast(Act, request.act))
        said = await self._host().asked(question)
        return pb.AskResponseResponse(state=said.has.state, term=said.has.term, body_json=said.body)

    async def followed(self, request: pb.FollowResponseRequest) -> AsyncGenerator[pb.ResponseEvents, None]:
        async with aclosing(self._host().followed(request.id, request.asker, request.after)) as events:
            async for last, frames in events:
                yield pb.ResponseEvents(last=last, frames=frames)


def part_to_pb(part: Part) -> pb.ResponsePart:
    return pb.ResponsePart(ids=part.ids, **{name: getattr(part, name) for name in _PLAIN})


def part_from_pb(part: pb.ResponsePart, maker: str, boot: str) -> Part:
    return Part(maker=maker, boot=boot, ids=tuple(part.ids), **{name: getattr(part, name) for name in _PLAIN})
