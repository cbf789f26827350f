"""Work that may take only so much of the processor: a regular expression of somebody else's, say, holds the
interpreter until it has matched, so that neither another thread nor a task could end it. A signal does.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 0.02  # a callback that clears up may have taken the exception, which is lost there: it comes again


class TookTooLong(Exception):
    """The limit was reached."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises `TookTooLong` in the block after so many seconds of this process's own time (others' load does not count).

    In the main thread only, one at a time; nothing in the block may wait.
    """
    is_on = True

    def end(number: int, frame: FrameType | None) -> None:
        if is_on:
            raise TookTooLong

    def unless_ours(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, TookTooLong):
            hook(lost)

    hook, before = sys.unraisablehook, signal.signal(signal.SIGVTALRM, end)
    sys.unraisablehook = unless_ours
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, AGAIN_S)
    try:
        try:
            yield
        finally:
            is_on = False
    finally:
        is_on = False  # a signal may have come just before
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        sys.unraisablehook = hook
