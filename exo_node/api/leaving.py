"""A node that stops: answers that run are completed in the time there is, all others are told that they will not be."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType

from aiohttp import web

from exo_node.api.errors import Handler, error_response, shape_of
from exo_node.errors import DeadlineExceeded, ExoError, NodeStopping
from exo_node.routing.adapter.watch import Within

RETRY_S = 5.0  # a node that is started anew, or the next one behind a load balancer, answers by then


class Leaving:
    """What runs at one API. `begun`: no new requests; `over`: what ran until then was ended."""

    def __init__(self) -> None:
        self.begun = False
        self.over = False
        self._seconds = 0.0
        self._open: set[_Answering] = set()
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        """Answers that are being made."""
        return len(self._open)

    def within(self, seconds: float) -> Within:
        """For the block that makes one answer: `TimeoutError` after `seconds`, or when this node ends before it does;
        `why` says which."""
        return _Answering(self, seconds)

    def why(self, timeout_s: float) -> ExoError:
        """The error of an answer that `within` has ended."""
        if self.over:
            return NodeStopping(
                "the answer is not complete: this node was told to stop and waited for it for "
                f"{self._seconds:g} s (--shutdown-timeout); ask again",
                retry_after=RETRY_S,
            )
        return late(timeout_s)

    async def drain(self, seconds: float) -> int:
        """No new answers; wait so long for those that run, then end them. How many that were."""
        self.begun, self._seconds = True, seconds
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()
        self.over = True
        left = tuple(self._open)
        for one in left:
            one.end()
        return len(left)

    def opened(self, one: _Answering) -> None:
        self._open.add(one)
        self._idle.clear()
        if self.over:
            one.end()

    def closed(self, one: _Answering) -> None:
        self._open.discard(one)
        if not self._open:
            self._idle.set()


def late(timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"the answer was not complete after {timeout_s:g} s (--chatgpt-api-response-timeout)")


LEAVING: web.AppKey[Leaving] = web.AppKey("leaving", Leaving)


@web.middleware
async def take_no_more(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Once the node leaves: looking is allowed (probes, metrics), nothing new is begun, and no connection is kept."""
    leaving = request.app[LEAVING]
    if not leaving.begun:
        return await handler(request)
    if request.method in ("GET", "HEAD"):
        response = await handler(request)
    else:
        refused = NodeStopping("this node is stopping and takes no new requests; ask again", retry_after=RETRY_S)
        response = error_response(refused, shape_of(request))
    response.force_close()
    return response


class _Answering(Within):
    """One answer."""

    __slots__ = ("_leaving",)

    def __init__(self, leaving: Leaving, seconds: float) -> None:
        super().__init__(seconds)
        self._leaving = leaving

    def __enter__(self) -> None:
        super().__enter__()
        self._leaving.opened(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leaving.closed(self)
        super().__exit__(kind, error, at)

    def end(self) -> None:
        self._fire()
