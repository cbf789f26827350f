"""Server-sent events: framing, and sending a stream of frames so that a failure is never mistaken for an end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

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


async def respond(request: web.Request, frames: AsyncGenerator[bytes, None], timeout_s: float) -> web.StreamResponse:
    """Send `frames`, then `[DONE]`.

    Headers wait for the first frame: what fails before it raises and becomes a plain error answer. What fails later is
    sent as an error frame, after which the stream ends without `[DONE]`. Closes `frames` however it ends.
    Raises `ExoError` (before the first frame only).
    """
    response = web.StreamResponse(headers=HEADERS)
    response.headers["X-Request-Id"] = REQUEST_ID.get()
    async with aclosing(frames):
        try:
            async with asyncio.timeout(timeout_s):
                async for piece in frames:
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write(piece)
                await response.write(DONE)
        except TimeoutError as e:
            await _fail(request, response, late(timeout_s), e)
        except ExoError as e:
            await _fail(request, response, e, e)
        except ConnectionResetError:
            return response  # the client is gone; its handler is being cancelled
        except Exception as e:  # the border of a stream whose status is already out
            if not response.prepared:
                raise
            await _fail(request, response, internal(e), e)
    await response.write_eof()
    return response


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
