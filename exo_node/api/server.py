"""The HTTP server's patience: how long a head and a body may take to come, and how many connections an address has.

aiohttp bounds the size of lines, headers and bodies, but waits for their rest for as long as a client likes, so that
one machine could hold every connection (slow loris). It decompresses bodies as they come, of strangers too, and even
while it throws away what nobody reads; here serving.py does, once the sender is known. And what it refuses itself it
tells in plain text; here it is an error object as everywhere.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import ssl
from collections import Counter
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from exo_node.api.errors import error_body, error_response
from exo_node.api.sending import unsent
from exo_node.errors import ExoError, InvalidRequest
from exo_node.values import is_loopback

log = logging.getLogger(__name__)

TICK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds, bytes per second, and connections."""

    first_s: float = 60.0  # until a new connection says anything
    head_s: float = 20.0  # from a head's first byte to its last
    silence_s: float = 30.0  # between two pieces of a body
    grace_s: float = 60.0  # after which a body must have come at
    least_rate: float = 1000.0  # bytes a second on the average
    send_s: float = 60.0  # that a client may take nothing of its answer (streams look themselves: sending.py)
    per_address: int = 1000  # of another machine; this one's programs (a proxy) have as many as they like
    share: float = 0.75  # of the files that this process may have open: the rest is for runners, peers and databases


class SlowBody(web.RequestPayloadError):
    """A body that comes too slowly, or does not end."""


class ServerSite(web.TCPSite):
    """`web.TCPSite` whose connections are watched."""

    def __init__(
        self, runner: web.AppRunner, host: str, port: int, *, patience: Patience | None = None, **rest: Any
    ) -> None:
        super().__init__(runner, host, port, **rest)
        self._watch = Watch(patience or Patience())

    async def start(self) -> None:
        await web.BaseSite.start(self)
        server, loop = self._runner.server, asyncio.get_running_loop()
        assert server is not None

        def connect() -> asyncio.Protocol:
            made = Connection(server, self._watch, loop=loop, **{**server._kwargs, "auto_decompress": False})
            return made if self._ssl_context is None else Door(made, self._watch, self._ssl_context)

        self._server = await loop.create_server(
            connect,
            self._host,
            self._port,
            backlog=self._backlog,
            reuse_address=self._reuse_address,
            reuse_port=self._reuse_port,
        )


class Watch:
    """The open connections of a site. Looks at them every `TICK_S`, as long as there are any."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._open: dict[Connection, str] = {}
        self.doors: set[asyncio.Task[None]] = set()
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Connection, address: str) -> bool:
        """False where that address has its share already, or all of them have theirs."""
        if connection in self._open:
            return True
        if self._counts[address] >= self.patience.per_address and not is_loopback(address):
            return False
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files != resource.RLIM_INFINITY and len(self._open) >= self.patience.share * files:
            return False
        self._counts[address] += 1
        self._open[connection] = address
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        return True

    def remove(self, connection: Connection) -> None:
        address = self._open.pop(connection, None)
        if address is None:
            return
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self._open):
            connection.check(now)
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick) if self._open else None


class Door(asyncio.Protocol):
    """Where TLS is shaken hands over before there is a connection: asyncio by itself would count none until then, and
    wait a minute for each.
    """

    def __init__(self, connection: Connection, watch: Watch, context: ssl.SSLContext) -> None:
        self._connection, self._watch, self._context = connection, watch, context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if not self._watch.add(self._connection, address_of(transport)):
            transport.abort()  # in words that the other side does not speak yet nothing can be said
            return
        transport.pause_reading()
        task = asyncio.get_running_loop().create_task(self._shake_hands(transport))
        self._watch.doors.add(task)
        task.add_done_callback(self._watch.doors.discard)

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                self._connection,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._watch.patience.head_s,
            )
        except OSError:  # what is no TLS, is none that we speak, or takes its time
            self._watch.remove(self._connection)
            return
        if secured is not None and not self._connection.gone:
            self._connection.connection_made(secured)


def address_of(transport: asyncio.BaseTransport) -> str:
    """The other side's; "" for what has none."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


class Connection(web.RequestHandler):
    """One connection, which knows since when it has been waiting for what."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_body_since",
        "_early",
        "_head_since",
        "_last",
        "_out",
        "_since",
        "_unsent",
        "_unsent_since",
        "_watch",
        "gone",
    )

    def __init__(self, server: web.Server, watch: Watch, **rest: Any) -> None:
        super().__init__(server, **rest)
        self._watch = watch
        self._since = self._last = self._loop.time()
        self._early: list[bytes] | None = []  # what came between the handshake over TLS and `connection_made`
        self.gone = False
        self._head_since: float | None = None  # where a part of a head has come
        self._body: object = None  # of which request
        self._body_since = 0.0
        self._body_bytes = 0
        self._out: asyncio.Transport | None = None  # aiohttp forgets its own when it closes it
        self._unsent, self._unsent_since = 0, 0.0  # bytes of its answer that the client has not taken, unchanged since

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self._out = transport
        self._since = self._last = self._loop.time()
        early, self._early = self._early or (), None
        if not self._watch.add(self, address_of(transport)):
            said = "too many connections, of your address or in all"
            self._say(ExoError(said, code="too_many_connections", status=503))
        for data in early:
            self.data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.gone = True
        self._watch.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._early is not None:
            self._early.append(data)
            return
        if not data:  # aiohttp's own call, to go on with what it has
            super().data_received(data)
            return
        before = self._request_count
        self._last = self._loop.time()
        self._body_bytes += len(data)
        super().data_received(data)
        if self._request_count != before:
            self._head_since = None
        elif self._head_since is None and self._current_request is None and not self._messages:
            self._head_since = self._last

    def check(self, now: float) -> None:
        """Give up on what takes too long."""
        patience, request = self._watch.patience, self._current_request
        self._check_reader(now)
        if request is not None:
            self._check_body(request, now)
        elif self._head_since is not None and now - self._head_since > patience.head_s:
            self._say(InvalidRequest("the request's head came too slowly", code="request_timeout", status=408))
        elif not self._request_count and self._head_since is None and now - self._since > patience.first_s:
            self.force_close()

    def _check_body(self, request: web.BaseRequest, now: float) -> None:
        content, patience = request.content, self._watch.patience
        if self._body is not request:  # its first look
            self._body, self._body_since, self._body_bytes = request, now, 0
        if content.is_eof() or content.exception() is not None:
            return
        if self._reading_paused or self._buffer_paused:  # it is we who do not read
            self._body_since, self._body_bytes, self._last = now, 0, now
            return
        waited = now - self._body_since
        slow = waited > patience.grace_s and self._body_bytes < patience.least_rate * waited
        if slow or now - max(self._last, self._body_since) > patience.silence_s:
            content.set_exception(SlowBody("it came too slowly"))

    def _check_reader(self, now: float) -> None:
        transport = self._out
        if transport is None:
            return
        # An answer that is complete lies in the buffer, and nobody waits for it any more.
        waits = self._current_request is not None or transport.get_write_buffer_size()
        left, before = unsent(transport) if waits else 0, self._unsent
        if not left or left != before:
            self._unsent, self._unsent_since = left, now
        elif now - self._unsent_since > self._watch.patience.send_s + 2 * TICK_S:
            log.warning("a client has taken nothing of its answer for %g s (--send-timeout)", now - self._unsent_since)
            transport.abort()

    def _say(self, error: ExoError) -> None:
        """An answer to what is no request yet, and the end of the connection."""
        if self.transport is not None:
            body = web.json_response(error_body(error)).body
            assert isinstance(body, bytes)
            head = f"HTTP/1.1 {error.status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP request at all, or has a line or a header that is too long."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        self.log_exception("Error handling request", exc_info=exc)
        first = " ".join((exc.message or "no HTTP request").split("\n")[0].rstrip(":").split())
        error = InvalidRequest(f"this is no HTTP request that this server takes: {first[:120]}", code="invalid_http")
        if isinstance(exc, LineTooLong) or "Too many headers" in exc.message:
            most = f"{self.max_line_size} bytes of URL, {self.max_headers} headers of {self.max_field_size} bytes each"
            error = InvalidRequest(
                f"the request's head is too large: at most {most}", code="head_too_large", status=431
            )
        response = error_response(error)
        response.force_close()
        return response
