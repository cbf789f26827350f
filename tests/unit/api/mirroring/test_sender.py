"""Logs on their way to mirrors: in order, together, acknowledged, and never waited for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from exo_node.api.mirroring import sender as module
from exo_node.api.mirroring.choice import mirrors
from exo_node.api.mirroring.log import Copy, Part, ResponseLog
from exo_node.api.mirroring.ports import Alone
from exo_node.api.mirroring.sender import Outgoing, Sender
from exo_node.errors import PeerUnavailable
from exo_node.signals import ChangeSignal
from tests.unit.api.scripted import until


class Mirrors(Alone):
    """Peers that keep copies; `refusals` are what a node says of every part, `gates` hold its answers back."""

    def __init__(self, *nodes: str) -> None:
        super().__init__("me")
        self.nodes = dict.fromkeys(nodes, "1")
        self.signal = ChangeSignal()
        self.copies: dict[tuple[str, str], Copy] = {}
        self.calls: list[tuple[str, list[str]]] = []
        self.refusals: dict[str, list[str]] = {}
        self.gates: dict[str, asyncio.Event] = {}

    def live(self) -> Mapping[str, str]:
        return self.nodes

    def version(self) -> int:
        return self.signal.version

    async def changed(self, seen: int) -> None:
        await self.signal.wait(seen)

    async def send(self, node: str, parts: Sequence[Part], timeout: float) -> Mapping[str, str]:
        self.calls.append((node, [part.id for part in parts]))
        if (gate := self.gates.get(node)) is not None:
            await gate.wait()
        if node not in self.nodes:
            raise PeerUnavailable("gone")
        refused = {}
        for part in parts:
            if self.refusals.get(node):
                refused[part.id] = self.refusals[node].pop(0)
                continue
            copy = self.copies.setdefault((node, part.id), Copy(part.id, part.term, "me", "1"))
            copy.term = part.term
            assert copy.take(part)
        return refused


class Sent:
    """A log on its way, and what was said of it."""

    def __init__(self, sender: Sender, ident: str = "r") -> None:
        self.sender, self.log = sender, ResponseLog(ident, b"{}")
        self.shown: list[int] = []
        self.superseded = 0
        self.out = Outgoing(self.log, self.shown.append, self._supersede)
        sender.add(self.out)

    def _supersede(self) -> None:
        self.superseded += 1

    def say(self, word: str) -> None:
        self.log.add(word.encode() + b"\n\n", None)
        self.sender.told(self.out)

    def end(self) -> None:
        self.log.end(b"row")
        self.sender.told(self.out)


@pytest.fixture
def peers() -> Mirrors:
    return Mirrors("a", "b")


async def running(peers: Mirrors) -> tuple[Sender, asyncio.Task[None]]:
    sender = Sender(peers)
    task = asyncio.create_task(sender.run())
    await asyncio.sleep(0)
    return sender, task


async def over(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_it_is_shown_when_the_mirror_has_it(peers: Mirrors) -> None:
    """Of what comes while a call runs, all logs' parts go with the next one; the end ends the sending."""
    sender, task = await running(peers)
    one, two = (Sent(sender, ident) for ident in ("r1", "r2"))
    await until(lambda: one.shown == [0] and two.shown == [0])
    nodes = {one.out.mirror, two.out.mirror}
    for node in nodes:
        peers.gates[node] = asyncio.Event()
    calls = len(peers.calls)
    for word in ("a", "b", "c"):
        one.say(word)
        two.say(word)
        await asyncio.sleep(0)
    for gate in peers.gates.values():
        gate.set()
    await until(lambda: one.shown[-1] == two.shown[-1] == 3)
    assert len(peers.calls) - calls <= 2 * len(nodes)
    one.end()
    await until(lambda: one.shown[-1] == 4)
    copy = peers.copies[mirrors("r1", "ab")[0], "r1"]
    assert (bytes(copy.said), copy.ended) == (b"a\n\nb\n\nc\n\n", True)
    one.say("late")
    assert one.shown[-1] == 5  # nobody mirrors it any more
    await over(task)


async def test_alone_it_is_shown_at_once() -> None:
    """Without peers, and before and after `run`."""
    sender, task = await running(Mirrors())
    one = Sent(sender)
    one.say("a")
    assert one.shown == [0, 1]
    await over(task)
    two = Sent(sender, "r2")
    two.say("a")
    assert two.shown == [0, 1]
    assert await sender.flush() == set()


async def test_it_begins_again(peers: Mirrors) -> None:
    """After a bug of ours the sending is started once more: nothing stays where it was."""
    sender, task = await running(peers)
    one = Sent(sender)
    await until(lambda: one.shown == [0])
    await over(task)
    one.say("a")
    assert one.shown == [0]
    task = asyncio.create_task(sender.run())
    await until(lambda: one.shown[-1] == 1)
    assert bytes(peers.copies[one.out.mirror, "r"].said) == b"a\n\n"
    await over(task)


async def test_a_lost_mirror(peers: Mirrors) -> None:
    """The next one gets everything from the start, under a higher term."""
    sender, task = await running(peers)
    one = Sent(sender)
    one.say("a")
    await until(lambda: one.shown[-1:] == [1])
    first, term = one.out.mirror, one.log.term
    del peers.nodes[first]
    peers.signal.notify()
    await until(lambda: one.out.mirror not in ("", first))
    one.say("b")
    await until(lambda: one.shown[-1] == 2)
    copy = peers.copies[one.out.mirror, "r"]
    assert (bytes(copy.said), copy.term) == (b"a\n\nb\n\n", term + 1)
    await over(task)


async def test_a_mirror_that_hangs_holds_nobody_up(peers: Mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a moment readers get what is there."""
    monkeypatch.setattr(module, "HOLD_S", 0.01)
    sender, task = await running(peers)
    one = Sent(sender)
    await until(lambda: one.shown == [0])
    peers.gates[one.out.mirror] = asyncio.Event()
    one.say("a")
    await until(lambda: one.shown[-1] == 1)
    await over(task)


async def test_refusals(peers: Mirrors) -> None:
    """A gap is filled, a full mirror is left for another, a newer maker is heard of, what was deleted is dropped."""
    sender, task = await running(peers)
    one = Sent(sender)
    await until(lambda: one.shown == [0])
    first = one.out.mirror
    peers.refusals[first] = ["gap"]
    one.say("a")
    await until(lambda: one.shown[-1] == 1)
    assert one.out.mirror == first
    peers.refusals[first] = ["full"]
    one.say("b")
    await until(lambda: one.shown[-1] == 2)
    assert one.out.mirror not in ("", first)
    peers.refusals[one.out.mirror] = ["superseded"]
    one.say("c")
    await until(lambda: one.superseded == 1)
    assert one.shown[-1] == 2
    two = Sent(sender, "r2")
    peers.refusals[two.out.mirror] = ["deleted"]
    await until(lambda: two.shown == [0])
    assert two.superseded == 0
    await over(task)


async def test_flush(peers: Mirrors) -> None:
    """When the node stops, what the mirror lacks is sent; it has gone on with nothing that it was not given."""
    sender, task = await running(peers)
    one = Sent(sender)
    await until(lambda: one.shown == [0])
    await over(task)
    one.say("a")
    assert await sender.flush() == {"r"}
    assert bytes(peers.copies[one.out.mirror, "r"].said) == b"a\n\n"
    one.say("b")
    peers.refusals[one.out.mirror] = ["superseded"]
    assert await sender.flush() == set()
    two = Sent(sender, "r2")
    assert (two.out.mirror, await sender.flush()) == ("", set())


async def test_flush_waits_once_for_a_mirror_that_is_gone(peers: Mirrors) -> None:
    """However many logs it has; the other mirror gets all of its own."""
    sender, task = await running(peers)
    sent = [Sent(sender, f"r{i}") for i in range(8)]
    await until(lambda: all(one.shown == [0] for one in sent))
    await over(task)
    for one in sent:
        one.say("a")
    gone = sent[0].out.mirror
    del peers.nodes[gone]
    peers.calls.clear()
    stays = {one.log.id for one in sent if one.out.mirror != gone}
    assert stays
    assert await sender.flush() == stays
    assert len(peers.calls) == 2


def test_what_it_needs() -> None:
    """`Alone` has nobody."""
    alone: Any = Alone("me")
    assert (alone.live(), alone.version(), alone.sign(b"key")) == ({}, 0, "")
