"""Server-sent events: framing, and sending a stream of frames so that a failure is never mistaken for an end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Self

from aiohttp import web

from exo_node.api.errors import REQUEST_ID, error_body, internal
from exo_node.errors import DeadlineExceeded, ExoError

# Seconds of silence until a comment is sent. Until the first one no headers are out, so an error before then has its
# own HTTP status. Proxies commonly cut at 30 to 60 s of silence; exo v2 and Ollama-like servers also use 10.
SILENCE_S = 10.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
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


async def respond(
    request: web.Request,
    frames: AsyncGenerator[bytes, None],
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Send `frames`, then `[DONE]`; while nothing comes, comments.

    Headers wait for the first frame or comment, and so does the reading of `headers`: what fails before it raises and
    becomes a plain error answer. What fails later is sent as an error frame, after which the stream ends without
    `[DONE]`. Closes `frames` however it ends. Raises `ExoError` (before anything was sent only).
    """
    sending = _Sending(request, {} if headers is None else headers)
    async with aclosing(frames):
        try:
            async with asyncio.timeout(timeout_s), sending:
                async for piece in frames:
                    await sending.send(piece)
                await sending.send(DONE)
        except TimeoutError as e:
            await _fail(request, sending.response, late(timeout_s), e)
        except ExoError as e:
            await _fail(request, sending.response, e, e)
        except ConnectionResetError:
            return sending.response  # the client is gone; its handler is being cancelled
        except Exception as e:  # the border of a stream whose status is already out
            if not sending.response.prepared:
                raise
            await _fail(request, sending.response, internal(e), e)
    await sending.response.write_eof()
    return sending.response


class _Sending:
    """A response on its way. While it is entered, a task of its own sends comments into the silence.

    Each frame and each comment is one `write`, which hands it to the connection before it waits: they never mix.
    """

    def __init__(self, request: web.Request, headers: Mapping[str, str]) -> None:
        self.response = web.StreamResponse()
        self._request = request
        self._headers = headers
        self._opening = asyncio.Lock()
        self._clock = asyncio.get_running_loop().time
        self._sent = self._clock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_alive())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def send(self, piece: bytes) -> None:
        if not self.response.prepared:
            async with self._opening:
                if not self.response.prepared:
                    self.response.headers.update({**self._headers, **HEADERS, "X-Request-Id": REQUEST_ID.get()})
                    await self.response.prepare(self._request)
        self._sent = self._clock()
        await self.response.write(piece)

    async def _keep_alive(self) -> None:
        while True:
            left = self._sent + SILENCE_S - self._clock()
            if left > 0:
                await asyncio.sleep(left)
                continue
            try:
                await self.send(KEEP_ALIVE)
            except ConnectionResetError:
                return  # the client is gone; the handler hears of it itself


def late(timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"the answer was not complete after {timeout_s:g} s (--chatgpt-api-response-timeout)")


async def _fail(request: web.Request, response: web.StreamResponse, error: ExoError, cause: BaseException) -> None:
    if not response.prepared:
        if error is cause:
            raise error
        raise error from cause
    try:
        async with asyncio.timeout(FAREWELL_S):
            await response.write(frame(error_body(error)))
    except (TimeoutError, ConnectionResetError):
        if request.transport is not None:
            request.transport.abort()
