"""Every failure as OpenAI's error object; the outermost middleware, so that no other body leaves the server."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from exo_node.errors import ExoError, InvalidRequest, NotFound, RateLimited
from exo_node.routing.adapter.failure import headers_of

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")  # of the request that this task handles
ErrorShape = Callable[[ExoError], dict[str, Any]]
# Shapes of dialects other than OpenAI's by the paths below which they hold, also for wrong paths and missing keys.
ERROR_SHAPES: web.AppKey[dict[str, ErrorShape]] = web.AppKey("error_shapes", dict)
# The same by a header that only the dialect's clients send, on paths that it shares with others.
HEADER_SHAPES: web.AppKey[dict[str, ErrorShape]] = web.AppKey("header_shapes", dict)
PATIENCE_S = 60  # a longer Retry-After is none to the SDKs of OpenAI and Anthropic: they ask again within seconds
MAX_BODY = 64 * 1024 * 1024  # bytes, after decompression


def error_body(error: ExoError) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`: the four fields that OpenAI's specification requires."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: ExoError, shape: ErrorShape = error_body) -> web.Response:
    headers = dict(headers_of(error))
    never = isinstance(error, RateLimited) and not error.retryable  # the request alone is more than the limit
    # SDKs obey both headers.
    if (
        error.retry_after is not None
        or (error.status == 429 and not never)
        or (error.status == 503 and error.retryable)
    ):
        seconds = max(1, math.ceil(error.retry_after or 1))
        headers["Retry-After"] = str(seconds)
        if seconds > PATIENCE_S:
            headers["X-Should-Retry"] = "false"  # they would wait for less than that, in vain
    elif never or error.status == 503:
        headers["X-Should-Retry"] = "false"  # a missing key is still missing in a second
    elif error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 wants it
    return web.json_response(shape(error), status=error.status, headers=headers)


def internal(error: Exception) -> ExoError:
    """An unexpected exception is our bug: logged in full here, told to the client by its id only."""
    request_id = REQUEST_ID.get()
    log.error("request %s failed", request_id, exc_info=error)
    return ExoError(f"internal error, see the node's log for {request_id}")


def is_ours(record: logging.LogRecord) -> bool:
    """A filter of aiohttp's log: bytes that are no HTTP request are the sender's fault and worth one line."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    log.info("refused what is no HTTP request: %s", " ".join(str(error).split()))
    return False


def from_http(error: web.HTTPException, request: web.Request) -> ExoError:
    """What aiohttp itself answers with: no such route, wrong method, body too large."""
    if error.status == 404:
        return NotFound(f"no such route: {request.method} {request.path}")
    if error.status == 405:
        message = f"{request.path} takes {error.headers.get('Allow', '')}, not {request.method}"
        return InvalidRequest(message, code="method_not_allowed", status=405)
    if error.status == 413:
        return InvalidRequest(f"the request body is larger than {MAX_BODY} bytes", code="request_too_large", status=413)
    return InvalidRequest(error.reason, code="http_error", status=error.status)


def shape_of(request: web.Request) -> ErrorShape:
    """How the dialect of the request's path says an error; else that of the client, which its headers tell."""
    path = request.path
    for prefix, shape in (request.app.get(ERROR_SHAPES) or {}).items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return shape
    by_header = request.app.get(HEADER_SHAPES) or {}
    return next((shape for name, shape in by_header.items() if name in request.headers), error_body)


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns exceptions into answers and gives every request an id (`X-Request-Id`)."""
    request_id = f"req-{random.getrandbits(128):032x}"
    REQUEST_ID.set(request_id)
    try:
        response = await handler(request)
    except ExoError as e:
        response = error_response(e, shape_of(request))
    except web.HTTPException as e:
        response = error_response(from_http(e, request), shape_of(request))
        if "Allow" in e.headers:
            response.headers["Allow"] = e.headers["Allow"]
    except ConnectionResetError:
        raise  # the client is gone: nobody to answer
    except Exception as e:  # the border: whatever else happens becomes a 500 with OpenAI's body
        response = error_response(internal(e), shape_of(request))
    if request.content.exception() is not None:  # the body broke off: what follows on this connection is not a request
        request.content.feed_eof()
        response.force_close()
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
    return response
