"""How this process ends when it is told to: in order, at once when told twice, and in any case in time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable

log = logging.getLogger("exo")

TWICE_S = 0.5  # a terminal and a wrapper may both pass one Ctrl-C on: only what comes later is a second one
REST_S = 10.0  # for all that follows when answers have had their time: runners, goodbyes, the database


def end_now(status: int) -> None:
    """Kill what this process has started, and end it, whatever its threads do."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(status)


class Ending:
    """`stop` is set by the first SIGTERM or SIGINT. `limit_s`: for everything from then on."""

    def __init__(self, stop: asyncio.Event, limit_s: float, end: Callable[[int], None] = end_now) -> None:
        self._stop = stop
        self._limit_s = limit_s
        self._end = end
        self._since: float | None = None

    def listen(self) -> None:
        """Hear signals from now on."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.told, signum)

    def told(self, signum: int) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._stop.set()
            # A thread, because it is for an event loop that is stuck, or for threads that this process waits for when
            # the loop has ended; it ends with the process.
            watch = threading.Timer(self._limit_s, self._late)
            watch.daemon = True
            watch.start()
        elif now - self._since > TWICE_S:
            log.warning("told to stop a second time: ending at once")
            self._end(128 + signum)

    def _late(self) -> None:
        log.error("not ended %g s after it was told to stop: ending at once", self._limit_s)
        self._end(1)
