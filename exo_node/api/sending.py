"""How long a client may take nothing of its answer before it is cut off: its backend works for others then."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sys
import termios
from collections.abc import Awaitable
from dataclasses import dataclass

from aiohttp import web

from exo_node.routing.adapter.watch import Within

LARGE = 16 * 1024  # bytes at once that may fill the connection's buffer (asyncio's low-water mark)


@dataclass(slots=True)
class Sending:
    """One per API: the setting, and how many clients were cut off."""

    timeout_s: float
    cut_off: int = 0


SENDING: web.AppKey[Sending] = web.AppKey("sending", Sending)


def unsent(transport: asyncio.Transport | None) -> int:
    """Bytes that the client's machine has not taken. The kernel asks for more of asyncio's buffer only when a good part
    of its own megabytes is gone, so those count too, where it tells."""
    if transport is None:
        return 0
    sock, queued = transport.get_extra_info("socket"), bytes(4)
    with contextlib.suppress(OSError, ValueError):  # not told here, or closed by now
        queued = fcntl.ioctl(-1 if sock is None else sock.fileno(), termios.TIOCOUTQ, queued)
    return transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)


class StuckReader(Exception):
    """The client has taken not one byte for the send timeout."""


class Drain:
    """Watches writes to one connection. A client that keeps up costs nothing: its buffer is empty."""

    __slots__ = ("_timeout_s", "_transport")

    def __init__(self, transport: asyncio.Transport | None, timeout_s: float) -> None:
        self._transport = transport
        self._timeout_s = timeout_s

    @property
    def behind(self) -> int:
        """Bytes that the client has not taken, beside those on their way through the kernels."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def within(self, write: Awaitable[None], size: int) -> None:
        """Await a write of `size` bytes, which waits while the buffer is full. Raises `StuckReader`."""
        if not self.behind and size < LARGE:
            await write
            return
        before = unsent(self._transport) + size
        writing = asyncio.ensure_future(write)  # one that must go on while we look at the clock
        try:
            while True:
                try:
                    with Within(self._timeout_s):
                        await asyncio.shield(writing)
                    return
                except TimeoutError:
                    left = unsent(self._transport)
                    if left >= before:
                        raise StuckReader from None
                    before = left
        finally:
            writing.cancel()
