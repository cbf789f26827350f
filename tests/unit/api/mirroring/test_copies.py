"""Copies of peers' answers: what is taken, and who goes on."""

from __future__ import annotations

import asyncio

import pytest

from exo_node.api.mirroring import copies as module
from exo_node.api.mirroring.copies import Copies
from exo_node.api.mirroring.log import Copy, Part
from exo_node.api.mirroring.ports import Alone
from exo_node.signals import ChangeSignal
from tests.unit.api.scripted import until


class Peers(Alone):
    def __init__(self, **nodes: str) -> None:
        super().__init__("me")
        self.nodes = nodes
        self.signal = ChangeSignal()

    def live(self) -> dict[str, str]:
        return dict(self.nodes)

    def version(self) -> int:
        return self.signal.version

    async def changed(self, seen: int) -> None:
        await self.signal.wait(seen)


class Kept:
    """Copies, what has ended, and what was taken over."""

    def __init__(self) -> None:
        self.peers = Peers(a="1", b="1")
        self.terms: dict[str, int] = {}
        self.ended: list[Copy] = []
        self.taken: list[Copy] = []
        self.going = asyncio.Event()
        self.now = 0.0
        self.copies = Copies(
            self.peers, lambda ident: self.terms.get(ident, 0), self.ended.append, self._take, lasts_s=100,
            clock=lambda: self.now,
        )  # fmt: skip

    async def _take(self, copy: Copy) -> None:
        self.taken.append(copy)
        await self.going.wait()


def part(ident: str = "r", maker: str = "a", term: int = 5, said: bytes = b"", at: int = 0, **more: bytes) -> Part:
    row = more.get("row", b"")
    return Part(
        id=ident, term=term, maker=maker, boot="1", head=b"{}" if not at else b"", head_at=2 if at else 0, head_size=2,
        said=said, said_at=at, row=row, row_size=len(row),
    )  # fmt: skip


def test_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, from makers that would be missed, within bounds; the end is told once, and nothing stays."""
    kept = Kept()
    assert kept.copies.take(part(said=b"ab")) == ""
    assert kept.copies.take(part(said=b"c", at=2)) == ""
    assert kept.copies.take(part(said=b"e", at=4)) == "gap"
    assert kept.copies.take(part(maker="stranger")) == "stranger"
    assert kept.copies.take(part("new", said=b"x", at=1)) == "gap"
    monkeypatch.setattr(module, "MAX_COPIES", 1)
    assert kept.copies.take(part("r2")) == "full"
    assert kept.copies.take(part(at=3, row=b"row")) == ""
    assert [bytes(copy.row) for copy in kept.ended] == [b"row"]
    assert kept.copies.get("r") is None
    kept.copies.delete("r")
    assert kept.copies.take(part()) == "deleted"


def test_the_newest_maker_is_right() -> None:
    """A lower term than the copy's, or than what this node makes itself, is refused; a higher one begins anew."""
    kept = Kept()
    assert kept.copies.take(part(said=b"old")) == ""
    assert kept.copies.take(part(maker="b", term=6, said=b"new")) == ""
    assert kept.copies.take(part(said=b"er", at=3)) == "superseded"
    copy = kept.copies.get("r")
    assert copy is not None
    assert (copy.maker, bytes(copy.said)) == ("b", b"new")
    kept.terms["r2"] = 7
    assert kept.copies.take(part("r2")) == "superseded"


@pytest.mark.parametrize("boot", [None, "2"])
async def test_who_goes_on(boot: str | None) -> None:
    """When the maker is gone, or has begun a new life; who asks for it meanwhile waits until that is settled."""
    kept = Kept()
    kept.copies.take(part(said=b"ab"))
    kept.copies.take(part("unfinished head", said=b""))
    kept.copies.take(part("b's", maker="b"))
    task = asyncio.create_task(kept.copies.run())
    waiting = asyncio.create_task(kept.copies.settled("r"))
    await asyncio.sleep(0)
    if boot is None:
        del kept.peers.nodes["a"]
    else:
        kept.peers.nodes["a"] = boot
    kept.peers.signal.notify()
    await until(lambda: len(kept.taken) == 2)
    assert not waiting.done()
    kept.peers.nodes["a"] = "1"
    assert kept.copies.take(part(term=9)) == "superseded"
    kept.going.set()
    await waiting
    assert kept.copies.get("b's") is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_has_ended_without_a_word_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A maker that chose another mirror, or lost sight of this one, does not say so. What is heard of no more for
    longer than any answer takes stands in no other's way, and nobody makes it again when its maker ends one day."""
    monkeypatch.setattr(module, "MAX_COPIES", 2)
    kept = Kept()
    kept.copies.take(part("old"))
    kept.copies.take(part("goes on"))
    kept.now = 99
    assert kept.copies.take(part("new")) == "full"
    assert kept.copies.take(part("goes on", said=b"a")) == ""
    kept.now = 101
    assert kept.copies.take(part("new")) == ""
    assert kept.copies.get("old") is None
    kept.now = 200
    del kept.peers.nodes["a"]
    task = asyncio.create_task(kept.copies.run())
    await until(lambda: kept.copies.get("goes on") is None)
    assert [copy.id for copy in kept.taken] == ["new"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A maker that lives and does not answer."""
    monkeypatch.setattr(module, "SETTLE_S", 0.01)
    kept = Kept()
    kept.copies.take(part())
    await kept.copies.settled("r")
    assert kept.copies.get("r") is not None
