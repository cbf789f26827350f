"""Server-sent events: framing, and sending a stream of frames so that a failure is never mistaken for an end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter

from exo_node.api.errors import REQUEST_ID, error_body, internal
from exo_node.api.leaving import LEAVING
from exo_node.api.sending import SENDING, Drain, StuckReader
from exo_node.errors import ExoError
from exo_node.routing.call import Outlet

log = logging.getLogger(__name__)

# Seconds of silence until a comment is sent. Until the first one no headers are out, so an error before then has its
# own HTTP status. Proxies commonly cut at 30 to 60 s of silence; exo v2 and Ollama-like servers also use 10.
SILENCE_S = 10.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
ENOUGH = 64 * 1024  # bytes on their way to a client that reads slowly; then its backend is slowed down
FAREWELL_S = 5.0  # a client that does not even take the error frame in this time is cut off
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


def frame(event: dict[str, Any]) -> bytes:
    """One event. JSON has no raw newlines, so one `data:` line is enough."""
    return f"data: {_encode(event)}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Style:
    """How a dialect's stream looks on the wire; the default is OpenAI's."""

    headers: Mapping[str, str] = field(default_factory=lambda: HEADERS)
    keep_alive: bytes = KEEP_ALIVE  # into the silence; b"" where the dialect has nothing that clients ignore
    done: bytes = DONE  # after a complete answer
    failure: Callable[[ExoError], bytes] = lambda error: frame(error_body(error))  # the last frame of a broken one


OPENAI = Style()


@dataclass(slots=True)
class Opening:
    """What is known of a stream with its first frame."""

    headers: Mapping[str, str] = field(default_factory=dict)
    outlet: Outlet | None = None


async def respond(
    request: web.Request,
    frames: AsyncGenerator[bytes, None],
    timeout_s: float,
    opening: Opening | None = None,
    style: Style = OPENAI,
) -> web.StreamResponse:
    """Send `frames`, then `[DONE]`; while nothing comes, comments. `style` says how in another dialect than OpenAI's.

    Headers wait for the first frame or comment, and so does the reading of `opening`: what fails before it raises and
    becomes a plain error answer. What fails later is sent as an error frame, after which the stream ends without
    `[DONE]`. A client that takes nothing for the send timeout is cut off. Closes `frames` however it ends. Raises
    `ExoError` (before anything was sent only).
    """
    sending, leaving = _Sending(request, opening or Opening(), style), request.app[LEAVING]
    async with aclosing(frames):
        try:
            with leaving.within(timeout_s):
                try:
                    sending.start()
                    async for piece in frames:
                        await sending.send(piece)
                    await sending.finish()
                finally:
                    await sending.stop()
        except TimeoutError as e:
            await _fail(request, sending.response, style, leaving.why(timeout_s), e)
        except ExoError as e:
            await _fail(request, sending.response, style, e, e)
        except ConnectionResetError:
            return sending.response  # the client is gone; its handler is being cancelled
        except StuckReader:
            sending.cut_off()
            return sending.response
        except Exception as e:  # the border of a stream whose status is already out
            if not sending.response.prepared:
                raise
            await _fail(request, sending.response, style, internal(e), e)
    with contextlib.suppress(ConnectionResetError):  # the client left at the very end
        await sending.response.write_eof()
    return sending.response


class _Response(web.StreamResponse):
    _send_headers_immediately = False  # they go with the first frame, which is there when they are made


class _Sending:
    """A response on its way. Between `start` and `stop` it sends comments into the silence.

    Each frame and each comment is one `write`, which hands it to the connection before it waits: they never mix.
    """

    def __init__(self, request: web.Request, opening: Opening, style: Style) -> None:
        self.response = _Response()
        self._style = style
        self._request = request
        self._opening = opening
        self._lock = asyncio.Lock()
        self._transport: asyncio.Transport | None = None
        self._clock = asyncio.get_running_loop().time
        self._sent = self._clock()
        self._writer: AbstractStreamWriter | None = None
        self._drain = Drain(request.transport, request.app[SENDING].timeout_s)
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None  # that sends a comment

    def start(self) -> None:
        if not self._style.keep_alive:
            return
        self._handle = asyncio.get_running_loop().call_later(SILENCE_S, self._look)

    async def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def send(self, piece: bytes) -> None:
        if not self.response.prepared:
            async with self._lock:
                if not self.response.prepared:
                    headers = {**self._opening.headers, **self._style.headers, "X-Request-Id": REQUEST_ID.get()}
                    self.response.headers.update(headers)
                    self._writer = await self.response.prepare(self._request)
        self._sent = self._clock()
        await self._drain.within(self.response.write(piece), len(piece))
        outlet = self._opening.outlet
        if outlet is not None and outlet.write is None and isinstance(self._writer, StreamWriter):
            if self._writer.chunked:
                self._transport = self._request.transport
                outlet.write, outlet.drain = self._write, self._drained
            self._opening.outlet = None

    async def finish(self) -> None:
        """Say that this was all."""
        await self.stop()
        if self.response.prepared:
            await self._drain.within(self.response.write_eof(self._style.done), len(self._style.done))
        else:
            await self.send(self._style.done)

    def _write(self, piece: bytes) -> bool:
        """See `Outlet.write`. A client that has gone is noticed by who sends the rest."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        self._sent = self._clock()
        transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return transport.get_write_buffer_size() < ENOUGH

    async def _drained(self) -> None:
        assert self._writer is not None
        try:
            await self._drain.within(self._writer.drain(), 0)
        except StuckReader:
            self.cut_off()  # which ends the handler, as if the client had gone

    def cut_off(self) -> None:
        """The client takes nothing: give up what it was to get, and what makes it."""
        counted = self._request.app[SENDING]
        counted.cut_off += 1
        log.warning(
            "request %s was ended: its client %s took nothing for %g s (--send-timeout)",
            REQUEST_ID.get(), self._request.remote, counted.timeout_s,
        )  # fmt: skip
        if self._request.transport is not None:
            self._request.transport.abort()

    def _look(self) -> None:
        left = self._sent + SILENCE_S - self._clock()
        if left <= 0:
            # A client that has not taken what is there waits for nothing.
            if (self._task is None or self._task.done()) and not self._drain.behind:
                self._task = asyncio.create_task(self._comment())
            left = SILENCE_S
        self._handle = asyncio.get_running_loop().call_later(left, self._look)

    async def _comment(self) -> None:
        with contextlib.suppress(ConnectionResetError):  # the client is gone; the handler hears of it itself
            await self.send(self._style.keep_alive)


async def _fail(
    request: web.Request, response: web.StreamResponse, style: Style, error: ExoError, cause: BaseException
) -> None:
    if not response.prepared:
        if error is cause:
            raise error
        raise error from cause
    try:
        async with asyncio.timeout(FAREWELL_S):
            await response.write(style.failure(error))
    except (TimeoutError, ConnectionResetError):
        _abort(request)
    except Exception as e:  # our own failing at saying so: the client must not wait for more
        internal(e)
        _abort(request)


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
