"""memory_keeper.py: what the daemon does while memory is short."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
from collections.abc import Iterator

import pytest

from exo_node import memory_keeper
from exo_node.limits.memory import MemoryWatch


class Scripted:
    """A machine whose free memory is scripted; the last figure stays."""

    def __init__(self, *frees: int) -> None:
        self.watch = MemoryWatch(100 * 2**20)
        self._frees = list(frees)

    def look(self) -> bool:
        return self.watch.look((self._frees.pop(0) if len(self._frees) > 1 else self._frees[0]) * 2**20)


async def test_a_look_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every file that the process may have is open, as strangers can bring about, it looks again later."""
    monkeypatch.setattr(memory_keeper, "LOOK_S", 0.0)
    machine, ended = Scripted(300, 50), asyncio.Event()
    look, fails = machine.look, [OSError(errno.EMFILE, "Too many open files")]

    def failing() -> bool:
        if fails:
            raise fails.pop()
        return look()

    monkeypatch.setattr(machine, "look", failing)
    task = asyncio.create_task(memory_keeper.keep_memory(machine, ended.set, lambda: None))
    await ended.wait()
    task.cancel()


@pytest.fixture
def few_objects() -> Iterator[None]:
    """The collector looks at what is new only: those of a whole suite take it seconds, four times here."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("few_objects")
async def test_caches_go_while_it_is_short_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Again and again while it is low; the log has one line for each change."""
    monkeypatch.setattr(memory_keeper, "LOOK_S", 0.0)
    given, changes = [0], [0]
    ended = asyncio.Event()

    def give_up() -> None:
        given[0] += 1

    def changed() -> None:
        changes[0] += 1
        if changes[0] == 3:
            ended.set()

    machine = Scripted(300, 150, 150, 90, 90, 300)
    with caplog.at_level(logging.WARNING, "exo.memory"):
        task = asyncio.create_task(memory_keeper.keep_memory(machine, give_up, changed))
        await ended.wait()
        task.cancel()
    assert given == [4]
    said = [record.getMessage() for record in caplog.records if record.name == "exo.memory"]
    assert [line.partition(":")[0].partition(",")[0] for line in said] == [
        "memory is low", "memory runs out", "there is enough memory again",
    ]  # fmt: skip
    assert "90 MiB of memory are free" in said[1]
