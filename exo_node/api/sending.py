"""How long a client may take nothing of its answer before it is cut off: its backend works for others then."""

from __future__ import annotations

import asyncio
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
        writing = asyncio.ensure_future(write)  # one that must go on while we look at the clock
        try:
            while True:
                before = self.behind
                try:
                    with Within(self._timeout_s):
                        await asyncio.shield(writing)
                    return
                except TimeoutError:
                    if self.behind >= before:
                        raise StuckReader from None
        finally:
            writing.cancel()
