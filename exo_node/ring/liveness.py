"""A runner's watch over its own engine and the ring behind it: on the event loop, since the engine's thread may hang.

Whoever waits is told why; then a runner whose engine hangs ends itself, which gives its memory back and tells its
daemon. An engine that hangs with Python's lock in its hand stops this loop too: C code that needs no lock ends the
process then (faulthandler).
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

from exo_node.errors import RingBroken
from exo_node.ring.progress import Awaited, Hang, ProgressWatch, Turns

log = logging.getLogger("exo.runner")

LOOKS = 8  # within the shortest time that may count as a hang
FROZEN = 5.0  # times that: then the whole interpreter hangs
FLUSH_S = 0.2  # for what was said to leave before the process ends
STATUS = 70  # EX_SOFTWARE of sysexits.h


class Watched(Protocol):
    """What `RingServicer` offers."""

    def silence(self) -> float:
        """Seconds that anything may take, as the epoch's Configure said."""
        ...

    def awaited(self) -> Awaited | None:
        """Head only: the oldest step under way."""
        ...

    def ring_hangs(self, error: RingBroken) -> None:
        """A stage behind the head does not answer: end the epoch."""
        ...

    def engine_hangs(self, seconds: float) -> RingBroken:
        """Our own engine does not come back: tell whoever waits for it. Returns what they were told."""
        ...


def guard(seconds: float) -> None:
    """End this process, with word of where its threads are, unless asked again in time; 0 = never."""
    faulthandler.cancel_dump_traceback_later()
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)


async def watch(
    servicer: Watched, turns: Turns, end: Callable[[], None], guard: Callable[[float], None] = guard
) -> None:
    """Runs for as long as the runner serves; `end` ends the process."""
    silence = 0.0
    guarded = 0.0
    progress = ProgressWatch(turns, 0.0, 0.0)
    try:
        while True:
            if servicer.silence() != silence:
                silence = servicer.silence()
                progress = ProgressWatch(turns, silence, 2 * silence / LOOKS)
                guarded = 0.0
            now = time.monotonic()
            if now - guarded > silence:
                guarded = now
                guard(FROZEN * silence)
            hang = progress.look(now, servicer.awaited())
            if hang is not None and await act(servicer, hang):
                end()
            await asyncio.sleep(silence / LOOKS)
    finally:
        guard(0.0)


async def act(servicer: Watched, hang: Hang) -> bool:
    """Tell whoever waits; whether this process is of no use any more."""
    if hang.step is not None:
        error = RingBroken(
            f"the stages behind the head have kept step {hang.step} for {hang.seconds:.1f} s: one of them hangs",
            code="engine_hangs",
        )
        servicer.ring_hangs(error)
        return False
    told = servicer.engine_hangs(hang.seconds)
    log.error("%s; this runner ends, and its threads were at:", told.message)
    faulthandler.dump_traceback(file=sys.stderr)
    await asyncio.sleep(FLUSH_S)
    return True


def end_process() -> None:
    """Without any teardown, which would wait for the engine."""
    os._exit(STATUS)
