"""Background responses on the control plane, as messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from exo_node.api.mirroring.choice import Has
from exo_node.api.mirroring.log import Part
from exo_node.api.mirroring.ports import Answered, Question
from exo_node.errors import InvalidRequest
from exo_node.mirror_link import AnswerService, PeerLink, part_from_pb, part_to_pb
from exo_node.signals import ChangeSignal
from exo_node.transport.generated.exo.v1 import node_pb2 as pb

PART = Part(
    id="r", term=1 << 20, maker="a", boot="1", head=b"h", head_at=1, head_size=2, said=b"s", said_at=3, ids=(4, 70_000),
    ids_at=5, ids_model="m", model_id="i", row=b"r", row_at=6, row_size=7,
)  # fmt: skip


class Host:
    """Answers, and remembers what it was asked."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def take(self, parts: Sequence[Part]) -> Mapping[str, str]:
        self.heard += parts
        return {"r": "gap"}

    async def asked(self, question: Question) -> Answered:
        self.heard.append(question)
        return Answered(has=Has("made", 9), body=b"{}")

    async def followed(self, ident: str, asker: str, after: int) -> AsyncGenerator[tuple[int, bytes], None]:
        self.heard.append((ident, asker, after))
        yield 3, b"event"


class Peer:
    """A handle whose calls come to a service, through their wire form."""

    def __init__(self, service: AnswerService) -> None:
        self.service = service
        self.said: pb.AskResponseResponse | None = None

    async def call(self, method: str, request: Any, timeout: float) -> Any:
        request = type(request).FromString(request.SerializeToString())
        if method == "MirrorResponses":
            return self.service.take(request)
        assert method == "AskResponse"
        return self.said or await self.service.asked(request)

    async def stream(self, method: str, request: Any, timeout: float) -> AsyncGenerator[Any, None]:
        async for one in self.service.followed(request):
            yield one


async def test_every_call() -> None:
    """What one node says comes out at the other; what no node of ours says is refused."""
    host, signal = Host(), ChangeSignal()
    peer = Peer(AnswerService(lambda: host))
    states = {"b": SimpleNamespace(node=SimpleNamespace(boot_id="7"))}
    view: Any = SimpleNamespace(states=lambda: states, peer=lambda node: peer)
    link = PeerLink("a", "1", view, signal, b"secret")
    assert link.live() == {"b": "7"}
    assert await link.send("b", [PART], 1) == {"r": "gap"}
    question = Question(id="r", asker="hash", act="chain")
    assert await link.ask("b", question, 1) == Answered(has=Has("made", 9), body=b"{}")
    assert [one async for one in link.follow("b", "r", "hash", -1, 1)] == [(3, b"event")]
    assert host.heard == [PART, question, ("r", "hash", -1)]
    signal.notify()
    await link.changed(0)
    assert link.version() == 1
    assert link.sign(b"key") != link.sign(b"other")
    with pytest.raises(InvalidRequest, match="unknown act"):
        await AnswerService(lambda: host).asked(pb.AskResponseRequest(id="r", act="steal"))
    peer.said = pb.AskResponseResponse(state="lies")
    with pytest.raises(InvalidRequest, match="says 'lies'"):
        await link.ask("b", question, 1)


def test_parts() -> None:
    """Nothing is lost on the way."""
    assert part_from_pb(part_to_pb(PART), "a", "1") == PART
