"""A provider's stream: pulled batch by batch, or given to a function the moment it comes, without waking a task.

A task that wakes for each event costs a gateway more than all it does with the event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import Any

import aiohttp

from exo_node.routing.call import Batch, UpstreamError
from exo_node.routing.upstream.exchange import Connection, Exchange
from exo_node.routing.upstream.sse_reader import SSEReader

# After [DONE] the end of the body is a packet away; without it the connection could not be used again.
LINGER_S = 0.2
_EVENT = (b"data:", b"event:", b":")  # how a stream begins


class WireStream(AsyncGenerator[Batch, None]):
    """The batches of one answer (`call.Upstream.stream`); `flow` gives them away without a task.

    `ask` sends the request; `failure` makes an `UpstreamError` of a socket's; `no_stream` raises one for one object
    where a stream was asked for.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Exchange]],
        reader: SSEReader,
        failure: Callable[[BaseException], UpstreamError],
        no_stream: Callable[[bytes], None],
    ) -> None:
        self._ask, self._reader, self._failure, self._no_stream = ask, reader, failure, no_stream
        self._exchange: Exchange | None = None
        self._each: Callable[[Batch], bool] | None = None
        self._stopped: Callable[[], None] | None = None
        self._pulled = self._pull()

    def __anext__(self) -> Any:
        return self._pulled.__anext__()

    def asend(self, value: None) -> Any:
        return self._pulled.asend(value)

    def athrow(
        self, typ: Any, val: BaseException | object = None, tb: TracebackType | None = None
    ) -> Any:  # pragma: no cover - only there because generators have it
        return self._pulled.athrow(typ, val, tb)

    def aclose(self) -> Any:
        self.halt()
        return self._pulled.aclose()

    @property
    def done(self) -> bool:
        """Whether the provider has said `[DONE]`."""
        return self._reader.done

    def flow(self, each: Callable[[Batch], bool], stopped: Callable[[], None]) -> bool:
        """Give batches to `each` as they come, until it returns False or something else than a batch came, which the
        next pull finds; then `stopped` is called once. False: it cannot do that now."""
        exchange = self._exchange
        if exchange is None or not isinstance(exchange.protocol, Connection) or self._reader.over:
            return False
        if exchange.content.is_eof():  # the connection may be another exchange's by now
            return False
        self._each, self._stopped = each, stopped
        exchange.protocol.heard = self._heard
        self._heard()  # what has come already
        return True

    def halt(self) -> None:
        """Give nothing more; `stopped` is not called."""
        self._each = self._stopped = None
        protocol = None if self._exchange is None else self._exchange.protocol
        if isinstance(protocol, Connection) and protocol.heard == self._heard:  # not another exchange's, after ours
            protocol.heard = None

    def _heard(self) -> None:
        """Something came, or the connection ended."""
        each, exchange = self._each, self._exchange
        if each is None or exchange is None:
            return
        content, reader = exchange.content, self._reader
        while not content.is_eof() and content.exception() is None:
            data = content.read_nowait()
            if not data:
                return
            batch = reader.feed(data)
            if (batch is not None and not each(batch)) or reader.over:
                break
        stopped = self._stopped
        self.halt()
        if stopped is not None:
            stopped()

    async def _pull(self) -> AsyncGenerator[Batch, None]:
        reader = self._reader
        exchange = self._exchange = await self._ask()
        try:
            content = exchange.content
            first = b""
            if exchange.content_type == "application/json":  # some servers and proxies say so of streams, too
                first = await content.readany()
                if not first.lstrip().startswith(_EVENT):
                    self._no_stream(first + await exchange.read())
            while not reader.over and (data := first or await content.readany()):
                first = b""
                batch = reader.feed(data)
                if batch is not None:
                    yield batch
            if not reader.over:
                batch = reader.end()
                if batch is not None:
                    yield batch
            if reader.failure is not None:
                raise reader.failure
            if reader.done:
                await _drain(content)
        except (aiohttp.ClientError, OSError) as e:  # TimeoutError is an OSError
            raise self._failure(e) from e
        finally:
            self.halt()
            exchange.close()


async def _drain(content: aiohttp.StreamReader) -> None:
    """Read what follows [DONE], so that the connection can be used again; give up soon."""
    if content.at_eof():
        return
    try:
        async with asyncio.timeout(LINGER_S):
            while await content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError):  # the answer is complete all the same
        return
