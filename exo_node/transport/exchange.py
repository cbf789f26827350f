"""Questions to a peer over one call that streams both ways: each is answered before the next is sent.

A call of its own for every question costs several times as much, on both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from exo_node.errors import DeadlineExceeded, PeerUnavailable, Unauthorized
from exo_node.transport.client import EOF, GRPCPeerHandle, no_session
from exo_node.transport.handshake import Session
from exo_node.transport.status import calling


class Exchange:
    """Over `handle`'s connection. Opened by the first question, and anew by the next one after a failure."""

    def __init__(self, handle: GRPCPeerHandle, method: str) -> None:
        self.handle = handle
        self._method = method
        self._call: Any = None
        self._session: Session | None = None

    async def ask(self, message: Any, timeout: float) -> Any:
        """Raises `ExoError`."""
        try:
            async with asyncio.timeout(timeout):
                try:
                    return await self._ask(message, timeout)
                except Unauthorized as error:
                    if not no_session(error):
                        raise
                    return await self._ask(message, timeout, self._session)  # the peer has forgotten it
        except TimeoutError:
            raise DeadlineExceeded(f"node {self.handle.addr()} did not answer in {timeout:g} s") from None

    async def _ask(self, message: Any, timeout: float, stale: Session | None = None) -> Any:
        answered = False
        try:
            if self._call is None:
                self._call, self._session = await self.handle.open(self._method, stale, timeout)
            with calling(self.handle.addr()):
                with contextlib.suppress(asyncio.InvalidStateError):  # the peer ended the call: read() says why
                    await self._call.write(message)
                reply = await self._call.read()
            if reply is EOF:
                raise PeerUnavailable(f"node {self.handle.addr()} ended {self._method}")
            answered = True
            return reply
        finally:
            if not answered:
                self.close()

    def close(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
