"""Work that is given only so much of the processor."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time

import pytest

from exo_node.routing.sidecar.cpu_limit import TookTooLong, cpu_limit


def test_ends_what_takes_too_long() -> None:
    """Python's own loops and its regular expressions, which hold everything else up, are ended alike."""
    for work in (lambda: re.match("^(a+)+$", "a" * 60 + "!"), lambda: [None for _ in iter(int, 1)]):
        began = time.process_time()
        with pytest.raises(TookTooLong), cpu_limit(0.05):
            work()
        assert time.process_time() - began < 2


def test_leaves_no_trace() -> None:
    """What is quick enough goes on as ever, and afterwards nothing is limited."""
    before = signal.getsignal(signal.SIGVTALRM)
    with cpu_limit(0.02):
        said = sum(range(10))
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert (said, signal.getsignal(signal.SIGVTALRM)) == (45, before)


async def test_an_event_loop_goes_on() -> None:
    """A loop whose callback was ended goes on with the others."""
    with pytest.raises(TookTooLong), cpu_limit(0.05):
        re.match("^(a+)+$", "a" * 60 + "!")
    assert await asyncio.wait_for(asyncio.sleep(0.01, "still here"), 5) == "still here"


def test_ends_work_that_takes_exceptions_away() -> None:
    """Whatever is raised while an object goes is lost there, without a word of ours: it is raised again."""

    class Slow:
        def __del__(self) -> None:
            for _ in range(5_000_000):
                pass

    lost: list[object] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lost.append
    try:
        with pytest.raises(TookTooLong), cpu_limit(0.02):
            Slow()
            while True:
                pass
    finally:
        sys.unraisablehook = hook
    assert lost == []
