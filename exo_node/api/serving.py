"""The one way of a call through the API: body in, `Call` to the adapter, its reply out, whole or as a stream."""

from __future__ import annotations

import asyncio
import json
import random
import time
import zlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web

from exo_node.api import sse
from exo_node.api.calls import PREFIX, Context, make_call
from exo_node.api.errors import MAX_BODY
from exo_node.api.fields import parse_object
from exo_node.api.guard import caller_id, is_admin
from exo_node.api.leaving import Leaving
from exo_node.api.operations import of_request
from exo_node.api.ports import RoutingPort
from exo_node.api.schemas.core import check
from exo_node.api.server import SlowBody
from exo_node.config import Settings
from exo_node.errors import ExoError, InvalidRequest
from exo_node.routing.call import Call, CallKind, FormFile, Reply, UpstreamError, Whole
from exo_node.types import Priority

# What is left of a request's time when its call's is over: who waits for a backend then says itself which one was late,
# and the backend is blamed for it; the request's own limit is for all else.
MARGIN_S, MARGIN = 0.5, 0.05
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's words for these formats
BODY = web.RequestKey("body", dict)  # of a request, once it was read


async def expected(request: web.Request) -> None:
    """Answers `Expect: 100-continue`; other expectations are passed over, as RFC 9110 (10.1.1) allows. aiohttp's own
    handler quotes them in an answer, which fails for bytes that are no text."""
    if request.version >= (1, 1) and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in the request's body, decompressed if need be, and as the route's operation declares it."""
    body = request[BODY] = parse_object(await read_body(request))
    said = of_request(request)
    if said is not None and said.body is not None and not said.checked_later:
        check(body, said.body)
    return body


async def read_body(request: web.Request) -> bytes:
    """The body, decompressed. Raises `InvalidRequest` where it breaks off or is not compressed as it says."""
    if (request.content_length or 0) > MAX_BODY:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY, request.content_length or 0)  # before any of it has come
    encoding = _encoding_of(request)
    if encoding not in ("", *_WINDOWS):
        raise _not_read(encoding, f"send the body as it is, or {', '.join(_WINDOWS)}")
    try:
        raw = await request.read()
        return await asyncio.to_thread(unpacked, raw, encoding, request.client_max_size) if encoding else raw
    except SlowBody as e:
        raise InvalidRequest(f"the request body cannot be read: {e}", code="request_timeout", status=408) from e
    except (web.RequestPayloadError, zlib.error) as e:
        raise InvalidRequest(f"the request body cannot be read: {' '.join(str(e).split())}", code="invalid_body") from e


def refuse_compressed(request: web.Request) -> None:
    """Raises `InvalidRequest`; for forms, which are read as they come."""
    if encoding := _encoding_of(request):
        raise _not_read(encoding, "send the form as it is")


def _not_read(encoding: str, instead: str) -> InvalidRequest:
    problem = f"Content-Encoding: {encoding[:40]!r} is not read here; {instead}"
    return InvalidRequest(problem, code="unsupported_encoding", status=415)


def _encoding_of(request: web.Request) -> str:
    """How the body is compressed; "" for not at all."""
    said = ", ".join(request.headers.getall("Content-Encoding", ())).strip().lower()
    return "" if said == "identity" else said


def unpacked(raw: bytes, encoding: str, most: int) -> bytes:
    """Raises `zlib.error`, and 413 where it would be more than `most` bytes: no more than those are ever made."""
    window = _WINDOWS[encoding]
    if encoding == "deflate" and raw[:1] and raw[0] & 0xF != 8:  # without zlib's header, as some send it
        window = -window
    work = zlib.decompressobj(window)
    data = work.decompress(raw, most + 1)
    if len(data) > most:
        raise web.HTTPRequestEntityTooLarge(most, len(data))
    if not work.eof or work.unused_data:
        raise zlib.error(f"it is not {encoding} from its beginning to its end")
    return data


class CallServer:
    """Makes calls of requests and has them served."""

    def __init__(self, settings: Settings, routing: RoutingPort, leaving: Leaving | None = None) -> None:
        self.routing = routing
        self.leaving = Leaving() if leaving is None else leaving
        self.timeout_s = settings.response_timeout

    def call(
        self, request: web.Request, kind: CallKind, body: Mapping[str, Any], files: tuple[FormFile, ...] = ()
    ) -> Call:
        """Raises `InvalidRequest`. The time that the answer may take runs from here."""
        return self.call_of(
            caller_id(), kind, body, files, no_cache=_says_no_cache(request), at_most="high" if is_admin() else "normal"
        )

    def call_of(
        self,
        key_id: str,
        kind: CallKind,
        body: Mapping[str, Any],
        files: tuple[FormFile, ...] = (),
        *,
        no_cache: bool = False,
        at_most: Priority = "low",
    ) -> Call:
        """A call for an API key, whoever asks for it now, and without a hurry where nothing is said. Raises
        `InvalidRequest`."""
        context = Context(
            id=f"{PREFIX[kind]}-{random.getrandbits(128):032x}",
            deadline=time.monotonic() + self.timeout_s - min(MARGIN_S, MARGIN * self.timeout_s),
            default_model=None if body.get("model") else self.routing.default_model(kind),
            key_id=key_id,
            no_cache=no_cache,
            at_most=at_most,
        )
        return make_call(kind, body, context, files)

    async def answer(
        self, request: web.Request, kind: CallKind, body: Mapping[str, Any], files: tuple[FormFile, ...] = ()
    ) -> web.StreamResponse:
        """Serve the call and send what comes, as it comes."""
        call = self.call(request, kind, body, files)
        if not call.stream:
            reply = await self.reply(call)
            return respond_whole(whole_of(reply), reply.headers)
        opening = sse.Opening()
        return await sse.respond(request, self._frames(call, opening), self.timeout_s, opening)

    async def reply(self, call: Call) -> Reply:
        """The reply to a call that is not streamed. Raises `ExoError`."""
        try:
            with self.leaving.within(self.timeout_s):
                return await self.routing.serve(call)
        except TimeoutError as e:
            raise self.leaving.why(self.timeout_s) from e

    async def _frames(self, call: Call, opening: sse.Opening) -> AsyncGenerator[bytes, None]:
        """The reply's frames; `opening` is complete with the first of them."""
        reply = await self.routing.serve(call)
        if reply.frames is None:
            raise ExoError("the answer to a streamed call is no stream")
        opening.headers, opening.outlet = reply.headers, reply.outlet
        async with aclosing(reply.frames) as frames:
            async for piece in frames:
                yield piece


def whole_of(reply: Reply) -> Whole:
    """The complete answer that a plain call was promised."""
    if reply.whole is None:
        raise ExoError("the answer to a plain call is a stream")
    return reply.whole


def object_of(whole: Whole) -> dict[str, Any]:
    """The JSON object of an answer. Raises `UpstreamError` where it is none."""
    if whole.data is not None:
        return whole.data
    try:
        data = json.loads(whole.raw)
    except ValueError as e:
        raise UpstreamError("the answer that came is not JSON", "malformed") from e
    if not isinstance(data, dict):
        raise UpstreamError("the answer that came is not a JSON object", "malformed")
    return data


def respond_whole(whole: Whole, headers: Mapping[str, str]) -> web.Response:
    """The answer's bytes as they came, with its own headers and the adapter's."""
    return web.Response(body=whole.raw, headers={**whole.headers, **headers, "Content-Type": whole.content_type})


def _says_no_cache(request: web.Request) -> bool:
    """RFC 9111 5.2.1; both words mean here: neither read nor write."""
    said = request.headers.get("Cache-Control")
    if not said:
        return False
    words = {word.strip().lower() for word in said.split(",")}
    return not words.isdisjoint({"no-cache", "no-store"})
