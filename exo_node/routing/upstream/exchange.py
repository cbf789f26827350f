"""One POST on a pooled connection of aiohttp's: its connector (pool, DNS, TLS) and its parser, without what a
`ClientSession` does anew for each request (headers, cookies, redirects, a task for the body).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from exo_node.routing.call import UpstreamError


class Connection(ResponseHandler):
    """aiohttp's, which also says when something has come: what was read is then in the exchange's `content`."""

    heard: Callable[[], None] | None = None

    def data_received(self, data: bytes) -> None:
        ResponseHandler.data_received(self, data)
        if data and self.heard is not None:  # no data: what was held back is parsed, because somebody reads just now
            self.heard()

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self._reading_paused:  # aiohttp's reader asks for it after every read
            ResponseHandler.resume_reading(self, resume_parser)

    def close(self) -> None:
        self._tell()
        ResponseHandler.close(self)

    def abort(self) -> None:
        self._tell()
        ResponseHandler.abort(self)

    def _tell(self) -> None:
        """The pool's end, as the node leaves: aiohttp forgets whoever still reads from a connection that it closes."""
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(aiohttp.ServerDisconnectedError())

    def connection_lost(self, exc: BaseException | None) -> None:
        ResponseHandler.connection_lost(self, exc)
        if self.heard is not None:
            self.heard()


def listening(connector: aiohttp.BaseConnector) -> aiohttp.BaseConnector:
    """`connector`, making `Connection`s."""
    connector._factory = functools.partial(Connection, loop=asyncio.get_running_loop())  # type: ignore[assignment]
    return connector


class Prepared:
    """What requests to one address have in common. Call it on the event loop.

    Raises `ValueError` where a header cannot be sent.
    """

    __slots__ = ("head", "request")

    def __init__(self, url: URL, headers: Mapping[str, str], *, verify: bool) -> None:
        self.request = aiohttp.ClientRequest(
            "POST", url, headers=dict(headers), ssl=verify, loop=asyncio.get_running_loop()
        )
        lines = [f"POST {self.request.url.raw_path_qs} HTTP/1.1"]
        for name, value in self.request.headers.items():
            if any(c in name or c in value for c in "\r\n\0"):
                raise ValueError(f"header {name!r} holds a line break")
            if name.lower() not in ("content-length", "transfer-encoding"):
                lines.append(f"{name}: {value}")
        self.head = ("\r\n".join(lines) + "\r\nContent-Length: ").encode()


class Exchange:
    """A request and its answer's status, headers and content. Close it in the end; aiohttp's errors pass through.

    After `timeout_s` whoever waits gets a `TimeoutError`. The connection goes back to the pool when the answer has been
    read to its end.
    """

    __slots__ = ("_connection", "_handle", "_response", "content", "headers", "protocol", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.content: aiohttp.StreamReader = aiohttp.EMPTY_PAYLOAD
        self.protocol: ResponseHandler | None = None
        self._connection: aiohttp.connector.Connection | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._response: aiohttp.ClientResponse | None = None

    async def post(
        self, connector: aiohttp.BaseConnector, prepared: Prepared, body: bytes, timeout_s: float, connect_s: float
    ) -> None:
        """Send, and wait for the answer's headers."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        limits = aiohttp.ClientTimeout(total=None, connect=timeout_s, sock_connect=min(connect_s, timeout_s))
        try:
            connection = await connector.connect(prepared.request, [], limits)
        except TimeoutError as e:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from e
        self._connection = connection
        protocol = self.protocol = connection.protocol
        assert protocol is not None
        transport = protocol.transport
        if transport is None:
            raise aiohttp.ServerDisconnectedError
        protocol.set_response_params(read_until_eof=True)
        self._handle = loop.call_at(until, self._expire)
        transport.write(prepared.head + b"%d\r\n\r\n" % len(body) + body)
        try:
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:
                message, content = await protocol.read()
        except HttpProcessingError as e:
            about = prepared.request.request_info
            raise aiohttp.ClientResponseError(about, (), status=e.code, message=e.message) from e
        self.status, self.headers, self.content = message.code, message.headers, content
        content.on_eof(self._complete)

    async def send(
        self, session: aiohttp.ClientSession, url: URL, timeout: aiohttp.ClientTimeout, **options: Any
    ) -> None:
        """The same in aiohttp's own way, for what needs more: proxies and forms."""
        response = self._response = await session.post(url, timeout=timeout, **options)
        self.status, self.headers, self.content = response.status, response.headers, response.content

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "application/octet-stream").partition(";")[0].strip().lower()

    async def read(self) -> bytes:
        """The content (what is left of it)."""
        return self.content.read_nowait() if self.content.is_eof() else await self.content.read()

    def close(self) -> None:
        """Give the connection up, unless the answer has come to its end."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._response is not None:
            self._response.close()

    def _complete(self) -> None:
        connection = self._connection
        if connection is None:
            return
        transport = connection.transport
        if transport is not None and transport.get_write_buffer_size():  # an answer before the request was all sent
            self.close()
            return
        self._connection = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        connection.release()

    def _expire(self) -> None:
        self._handle = None
        late = TimeoutError()
        if self.protocol is not None:
            self.protocol.set_exception(late)
        if self.content is not aiohttp.EMPTY_PAYLOAD:
            self.content.set_exception(late)


def prepare(backend: str, url: URL, headers: Mapping[str, str], *, verify: bool) -> Prepared:
    """Raises `UpstreamError` where a header cannot be sent."""
    try:
        return Prepared(url, headers, verify=verify)
    except ValueError as e:
        raise UpstreamError(f"{backend}: its configured headers cannot be sent ({e})", "unavailable") from e
