"""Who is told of a hang, and which process ends; integration/test_detection.py has real engines that hang."""

from __future__ import annotations

import asyncio

import pytest

from exo_node.errors import RingBroken
from exo_node.ring.liveness import act, watch
from exo_node.ring.progress import Awaited, Hang, Turns


class Recorder:
    """What the watch says to its servicer."""

    def __init__(self, awaited: Awaited | None = None) -> None:
        self.told: list[RingBroken] = []
        self._awaited = awaited

    def silence(self) -> float:
        return 0.02

    def awaited(self) -> Awaited | None:
        return self._awaited

    def ring_hangs(self, error: RingBroken) -> None:
        self.told.append(error)
        self._awaited = None

    def engine_hangs(self, seconds: float) -> RingBroken:
        self.told.append(RingBroken(f"stage 2: hangs for {seconds} s", code="engine_hangs"))
        return self.told[-1]


async def test_our_own_engine_ends_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever waits hears it first; the log shows where the threads are."""
    servicer = Recorder()
    assert await act(servicer, Hang(2.5, None))
    assert servicer.told[0].code == "engine_hangs"
    assert "test_liveness.py" in capfd.readouterr().err


async def test_other_stages_end_the_epoch_only() -> None:
    """The head itself is well: it stays for the next epoch."""
    servicer = Recorder()
    assert not await act(servicer, Hang(3.25, 7))
    assert servicer.told[0].code == "engine_hangs"
    assert "step 7 for 3.2 s" in servicer.told[0].message


async def test_the_watch_goes_on_after_a_broken_epoch() -> None:
    """It looks until it is cancelled; a ring that hangs is told of once, and an engine that hangs ends the process."""
    turns = Turns()
    turns.begin(0.0)
    turns.uses("forward", 1)
    turns.end(0.0)
    servicer = Recorder(Awaited(3, 0.0001))
    ended = asyncio.Event()
    guarded: list[float] = []
    task = asyncio.create_task(watch(servicer, turns, ended.set, guarded.append))
    while not servicer.told:  # noqa: ASYNC110 - the servicer is called, it waits for nobody
        await asyncio.sleep(0.001)
    assert "step 3" in servicer.told[0].message
    turns.begin(0.0)
    turns.uses("forward", 1)
    await ended.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert guarded[0] > 0 == guarded[-1], "a frozen interpreter is another's business while the watch lives"
    assert [one.message[:8] for one in servicer.told[:2]] == ["the stag", "stage 2:"]
