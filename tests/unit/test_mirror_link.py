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
from tests.integration.control_plane import ControlNode, party

PART = Part(
    id="r", term=1 << 20, maker="a", boot="1", head=b"h", head_at=1, head_size=2, said=b"s", said_at=3, ids=(4, 70_000),
    ids_at=5, ids_model="m", model_id="i", row=b"r", row_at=6, row_size=7,
)  # fmt: skip


class Host:
    """Answers, and remembers what it was asked."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.state: Any = "made"

    def take(self, parts: Sequence[Part]) -> Mapping[str, str]:
        self.heard += parts
        return {"r": "gap"}

    async def asked(self, question: Question) -> Answered:
        self.heard.append(question)
        return Answered(has=Has(self.state, 9), body=b"{}")

    async def followed(self, ident: str, asker: str, after: int) -> AsyncGenerator[tuple[int, bytes], None]:
        self.heard.append((ident, asker, after))
        yield 3, b"event"


async def test_every_call() -> None:
    """What one node says comes out at the other; what no node of ours says is refused."""
    host, signal, secrets = Host(), ChangeSignal(), [b"secret"]
    service = AnswerService(lambda: host)
    async with ControlNode(party("b", "7")).serving() as b:
        assert b.servicer is not None
        b.servicer._answers = service
        handle = ControlNode(party("a")).handle("127.0.0.1", b.port)
        await handle.connect()
        view: Any = SimpleNamespace(states=lambda: {"b": b.state()}, peer=lambda node: handle)
        link = PeerLink("a", "1", view, signal, lambda: secrets[-1])
        assert link.live() == {"b": "7"}
        assert await link.send("b", [PART], 5) == await link.send("b", [PART], 5) == {"r": "gap"}
        question = Question(id="r", asker="hash", act="chain")
        assert await link.ask("b", question, 5) == Answered(has=Has("made", 9), body=b"{}")
        assert [one async for one in link.follow("b", "r", "hash", -1, 5)] == [(3, b"event")]
        assert host.heard == [PART, PART, question, ("r", "hash", -1)]
        signal.notify()
        await link.changed(0)
        assert link.version() == 1
        signed = link.sign(b"key")
        assert signed != link.sign(b"other")
        secrets.append(b"rotated")
        assert signed != link.sign(b"key")
        link._exchanges["b"]._call.cancel()  # as when a rotation replaces the connection
        assert await link.send("b", [PART], 5) == {"r": "gap"}
        wrong: Any = "steal"
        with pytest.raises(InvalidRequest, match="unknown act"):
            await link.ask("b", Question(id="r", asker="hash", act=wrong), 5)
        host.state = "lies"
        with pytest.raises(InvalidRequest, match="says 'lies'"):
            await link.ask("b", question, 5)
        await handle.close()


def test_parts() -> None:
    """Nothing is lost on the way."""
    assert part_from_pb(part_to_pb(PART), "a", "1") == PART
