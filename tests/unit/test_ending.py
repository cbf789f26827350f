"""ending.py: one signal, two, and none of it in time."""

from __future__ import annotations

import asyncio
import signal
import threading
import time

from exo_node import ending
from exo_node.ending import Ending


async def test_a_second_signal_ends_at_once_but_not_an_echo_of_the_first() -> None:
    """A terminal's Ctrl-C and its wrapper's are one; what comes after half a second is meant."""
    stop, ends = asyncio.Event(), list[int]()
    one = Ending(stop, 3600.0, ends.append)  # its thread outlives this test
    one.told(signal.SIGINT)
    one.told(signal.SIGTERM)
    assert stop.is_set()
    assert ends == []
    one._since = time.monotonic() - ending.TWICE_S - 0.1
    one.told(signal.SIGTERM)
    assert ends == [143]


async def test_who_does_not_end_in_time_is_ended() -> None:
    """Even where the event loop is stuck."""
    ended, ends = threading.Event(), list[int]()

    def end(status: int) -> None:
        ends.append(status)
        ended.set()

    Ending(asyncio.Event(), 0.01, end).told(signal.SIGTERM)
    assert ended.wait(10)  # this blocks the event loop
    assert ends == [1]
