"""The HTTP server under every stand-in: records requests, checks key and model, and plays the script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from tests.standins.script import Received, Script

_ESCAPES = re.compile(rb"(?:\\u(?!00[01])[0-9a-f]{4})+")  # JSON's, but for control characters


def _as_it_stands(escapes: re.Match[bytes]) -> bytes:
    said: str = json.loads(b'"' + escapes[0] + b'"')
    return said.encode()


@dataclass(frozen=True, slots=True)
class Whole:
    """A plain answer: JSON, or `raw` bytes of `content_type`. `pieces`: how much text it holds, for its pace."""

    data: Any = None
    raw: bytes | None = None
    content_type: str = "application/json"
    pieces: int = 0


@dataclass(frozen=True, slots=True)
class Frames:
    """A streamed answer: (bytes, whether this is a piece of the text) in order."""

    frames: Iterable[tuple[bytes, bool]]
    content_type: str = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Fault:
    """An error answer in the provider's shape."""

    status: int
    data: Any


class Standin:
    """A provider on 127.0.0.1. `key` "" takes any key; `models` () takes any model.

    `queue` holds scripts for the next requests that ask a model, one each; then `by_model`, then `script`. `record`
    False keeps only the last request (benchmarks).
    """

    provider = ""
    malformed = b"data: {not json\n\n"

    def __init__(
        self,
        *,
        key: str = "",
        models: tuple[str, ...] = (),
        script: Script | None = None,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        unix_path: str | None = None,
        record: bool = True,
    ) -> None:
        self.key = key
        self.models = models
        self.script = script or Script()
        self.queue: deque[Script] = deque()
        self.by_model: dict[str, Script] = {}
        self.requests: list[Received] = []
        self.port = port
        self.tls = tls
        self.unix_path = unix_path
        self.record = record
        self._peers: set[Any] = set()
        self._came = asyncio.Event()
        self._runner: web.AppRunner | None = None

    # What a provider fills in.

    def routes(self) -> list[web.RouteDef]:
        raise NotImplementedError

    def key_of(self, request: web.Request) -> str:
        return request.headers.get("Authorization", "").removeprefix("Bearer ")

    def error(self, status: int, message: str, code: str) -> Any:
        """The provider's error body."""
        raise NotImplementedError

    def error_frame(self, message: str, code: str) -> bytes:
        """The provider's error in the middle of a stream."""
        return b"data: " + json.dumps(self.error(500, message, code)).encode() + b"\n\n"

    def unauthorized(self) -> Fault:
        return Fault(401, self.error(401, "Incorrect API key provided.", "invalid_api_key"))

    def no_such_model(self, model: str) -> Fault:
        return Fault(404, self.error(404, f"The model `{model}` does not exist.", "model_not_found"))

    # Life.

    @property
    def url(self) -> str:
        """Address without a path: http://127.0.0.1:PORT."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def accepted(self) -> int:
        """How many connections carried requests."""
        return len(self._peers)

    async def asked(self, count: int) -> None:
        """Wait until `count` requests have come (from the stand-in's own event loop only)."""
        while len(self.requests) < count:
            self._came.clear()
            await self._came.wait()

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_routes(self.routes())
        self._runner = web.AppRunner(
            app, handler_cancellation=True, shutdown_timeout=0.05, access_log=None, keepalive_timeout=60.0
        )
        await self._runner.setup()
        if self.unix_path is not None:
            await web.UnixSite(self._runner, self.unix_path).start()
            return
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and every connection; may be started again on the same port."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # A request.

    def ask(
        self,
        method: str,
        path: str,
        answer: Callable[[Received, Script], Whole | Frames | Fault],
        model: Callable[[web.Request, Mapping[str, Any]], str] | None = None,
    ) -> web.RouteDef:
        """A route that asks a model: key, model and script hold. `model` reads its name; default the body's."""
        return web.route(method, path, self._handler(answer, model or (lambda _, body: str(body.get("model", "")))))

    def tell(self, path: str, data: Callable[[web.Request], Any], *, keyed: bool = True) -> web.RouteDef:
        """A GET route about the server itself: the key holds, scripts do not."""

        async def handle(request: web.Request) -> web.StreamResponse:
            received = await self._receive(request, lambda *_: "")
            received.outcome = "answered"
            received.ended.set()
            if keyed and self.key and self.key_of(request) != self.key:
                return self._fault(self.unauthorized(), {})
            told = data(request)
            return self._fault(told, {}) if isinstance(told, Fault) else web.json_response(told)

        return web.get(path, handle)

    def _handler(
        self,
        answer: Callable[[Received, Script], Whole | Frames | Fault],
        model_of: Callable[[web.Request, Mapping[str, Any]], str],
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            received = await self._receive(request, model_of)
            try:
                response = await self._play(request, received, answer)
                received.outcome = received.outcome or "answered"
                return response
            except (asyncio.CancelledError, ConnectionError):
                received.outcome = received.outcome or "disconnected"
                raise
            finally:
                received.ended.set()

        return handle

    async def _receive(
        self, request: web.Request, model_of: Callable[[web.Request, Mapping[str, Any]], str]
    ) -> Received:
        if request.transport is not None:
            self._peers.add(request.transport.get_extra_info("peername"))
        body: dict[str, Any] = {}
        files: dict[str, tuple[str, bytes]] = {}
        raw = b""
        if request.content_type == "multipart/form-data":
            for name, value in (await request.post()).items():
                if isinstance(value, web.FileField):
                    files[name] = (value.filename, value.file.read())
                else:
                    body[name] = value
        else:
            raw = await request.read()
            with contextlib.suppress(ValueError):
                parsed = json.loads(raw or b"null")
                body = parsed if isinstance(parsed, dict) else {}
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(request.method, request.path, dict(request.query), headers, raw, body, files)
        received.model = model_of(request, body)
        if not self.record:
            self.requests.clear()
        self.requests.append(received)
        self._came.set()
        return received

    async def _play(
        self,
        request: web.Request,
        received: Received,
        answer: Callable[[Received, Script], Whole | Frames | Fault],
    ) -> web.StreamResponse:
        if self.key and self.key_of(request) != self.key:
            return self._fault(self.unauthorized(), {})
        script = self.queue.popleft() if self.queue else self.by_model.get(received.model, self.script)
        headers = dict(script.headers)
        if script.retry_after is not None:
            headers["Retry-After"] = script.retry_after
        if script.status is not None and script.status >= 400:
            await asyncio.sleep(script.first_s)
            if script.body is not None:
                return web.Response(status=script.status, body=script.body, headers=headers, content_type="text/html")
            data = self.error(script.status, script.message or f"scripted status {script.status}", script.code)
            return self._fault(Fault(script.status, data), headers)
        if self.models and received.model not in self.models:
            return self._fault(self.no_such_model(received.model), headers)
        said = answer(received, script)
        if isinstance(said, Fault):
            return self._fault(said, headers)
        if -1 in (script.stall_after, script.reset_after):
            await self._break(request, received, script, -1)
        if isinstance(said, Whole):
            return await self._play_whole(request, received, script, said, headers)
        return await self._play_frames(request, received, script, said, headers)

    async def _play_whole(
        self, request: web.Request, received: Received, script: Script, said: Whole, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        await asyncio.sleep(script.first_s + script.gap_s * said.pieces)
        if script.stall_after is not None or script.reset_after is not None:
            await self._break(request, received, script, None)
        raw = said.raw if said.raw is not None else json.dumps(said.data).encode()
        if script.malformed_after is not None:
            raw = raw[: len(raw) // 2] + b"<"
        response = web.StreamResponse(headers=headers)
        response.content_type = said.content_type
        response.content_length = len(raw)
        await response.prepare(request)
        if script.eof_after is not None or script.cut_after is not None:
            await response.write(raw[: len(raw) // 2])
            received.outcome = "broken"
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write_eof(raw)
        return response

    async def _play_frames(
        self, request: web.Request, received: Received, script: Script, said: Frames, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "no-cache", **headers})
        response.content_type = said.content_type
        if said.content_type == "text/event-stream":
            response.charset = "utf-8"
        await response.prepare(request)
        sent = 0
        held: list[bytes] = []
        for made, counts in said.frames:
            frame = made if script.escaped else _ESCAPES.sub(_as_it_stands, made)
            if counts:
                if sent in (script.stall_after, script.reset_after):
                    await response.write(b"".join(held))
                    await self._break(request, received, script, sent)
                if sent == script.eof_after:
                    await response.write(b"".join(held))
                    received.outcome = "broken"
                    await response.write_eof()
                    return response
                odd = {
                    script.cut_after: frame[: len(frame) // 2],
                    script.malformed_after: self.malformed,
                    script.error_after: self.error_frame(script.message or "scripted error", script.code),
                }
                if sent in odd:
                    await response.write(b"".join(held) + odd[sent])
                    received.outcome = "broken"
                    await response.write_eof()
                    return response
                wait = script.gap_s if sent else script.first_s
                if wait:
                    await asyncio.sleep(wait)
                sent += 1
            held.append(frame)
            if len(held) >= script.join:
                await response.write(b"".join(held))
                held.clear()
        await response.write_eof(b"".join(held))
        return response

    async def _break(self, request: web.Request, received: Received, script: Script, at: int | None) -> None:
        """Stall or reset, whichever the script has here (`at` None: at any place)."""
        if script.reset_after is not None and at in (None, script.reset_after):
            received.outcome = "broken"
            reset(request)
            await asyncio.Event().wait()  # ends with the connection
        if script.stall_after is not None and at in (None, script.stall_after):
            await asyncio.Event().wait()

    def _fault(self, fault: Fault, headers: Mapping[str, str]) -> web.Response:
        return web.json_response(fault.data, status=fault.status, headers=headers)


def reset(request: web.Request) -> None:
    """Break the request's connection with a TCP reset."""
    transport = request.transport
    assert transport is not None
    sock: socket.socket = transport.get_extra_info("socket")
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


@dataclass
class _Thread:
    """Where a threaded stand-in's loop and its start's outcome meet."""

    ready: threading.Event = field(default_factory=threading.Event)
    loop: asyncio.AbstractEventLoop | None = None
    leave: asyncio.Event | None = None
    error: BaseException | None = None


@contextlib.contextmanager
def serve(*standins: Standin) -> Iterator[Standin]:
    """Run stand-ins in a thread with an event loop of its own for the length of the block; gives the first."""
    shared = _Thread()

    async def live() -> None:
        shared.loop, shared.leave = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            for one in standins:
                await stack.enter_async_context(one)
            shared.ready.set()
            await shared.leave.wait()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as e:
            shared.error = e
        finally:
            shared.ready.set()

    thread = threading.Thread(target=run, name="standins")
    thread.start()
    shared.ready.wait()
    try:
        if shared.error is not None:
            raise shared.error
        yield standins[0]
    finally:
        if shared.loop is not None and shared.leave is not None and thread.is_alive():
            shared.loop.call_soon_threadsafe(shared.leave.set)
        thread.join()
