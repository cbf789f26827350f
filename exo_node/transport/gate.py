"""The gate of a gRPC server: nothing for a caller whose key is trusted no more, though its connection is still open.

TLS checks a certificate when a connection opens and never again. After a rotation `sweep` ends what runs on connections
that the old key opened, and each new call on them is refused.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import grpc
import grpc.aio

from exo_node.errors import Unauthorized
from exo_node.transport.status import abort_with, kind_of, with_behaviour
from exo_node.transport.tls import TlsIdentity, peer_certificate


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """The first interceptor of a server. Calls of the methods `lasting` are refused as all others, but not ended."""

    def __init__(self, tls: TlsIdentity, lasting: Collection[str] = ()) -> None:
        self._tls = tls
        self._lasting = frozenset(lasting)
        self._running: dict[asyncio.Task[Any], bytes] = {}
        self._swept: set[asyncio.Task[Any]] = set()

    def sweep(self) -> int:
        """End every call that an untrusted certificate began; returns how many."""
        ended = [task for task, certificate in self._running.items() if not self._tls.admits(certificate)]
        for task in ended:
            del self._running[task]
            self._swept.add(task)
            task.cancel()
        return len(ended)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler: Any = await continuation(handler_call_details)
        if handler is None:  # no such method
            return None  # type: ignore[return-value]
        details: Any = handler_call_details
        lasts = details.method in self._lasting
        inner = getattr(handler, kind_of(handler))
        wrap = self._stream if inspect.isasyncgenfunction(inner) else self._coroutine
        return with_behaviour(handler, wrap(inner, lasts))

    def _coroutine(self, inner: Callable[..., Awaitable[Any]], lasts: bool) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            task = await self._enter(context, lasts)
            try:
                return await inner(request, context)
            except asyncio.CancelledError:
                await self._end(task, context)
                raise
            finally:
                self._running.pop(task, None)
                self._swept.discard(task)

        return call

    def _stream(self, inner: Callable[..., AsyncIterator[Any]], lasts: bool) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            task = await self._enter(context, lasts)
            responses: Any = inner(request, context)
            try:
                async for response in responses:
                    yield response
            except asyncio.CancelledError:
                await self._end(task, context)
                raise
            finally:
                self._running.pop(task, None)
                self._swept.discard(task)
                await responses.aclose()

        return call

    async def _enter(self, context: grpc.aio.ServicerContext[Any, Any], lasts: bool) -> asyncio.Task[Any]:
        certificate = peer_certificate(context)
        if not self._tls.admits(certificate):
            await _refuse(context)
        task = asyncio.current_task()
        assert task is not None
        if not lasts:
            self._running[task] = certificate
        return task

    async def _end(self, task: asyncio.Task[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """gRPC sends no status for a handler that is cancelled: its caller would wait for ever."""
        if task in self._swept:
            task.uncancel()
            await _refuse(context)


async def _refuse(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await abort_with(context, Unauthorized("this connection's key is trusted no more", code="key_dropped"))
