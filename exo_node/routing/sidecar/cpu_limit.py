"""Work that may take only so much of the processor: a regular expression of somebody else's, say, holds the
interpreter until it has matched, so that neither another thread nor a task could end it. A signal does.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TookTooLong(Exception):
    """The limit was reached."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises `TookTooLong` in the block after so many seconds of this process's own time (others' load does not count).

    In the main thread only, one at a time; nothing in the block may wait.
    """
    before = signal.signal(signal.SIGVTALRM, _end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _end(number: int, frame: FrameType | None) -> None:
    raise TookTooLong
