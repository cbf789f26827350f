"""The gate of a gRPC server: nothing for a caller whose key is trusted no more, though its connection is still open.

TLS checks a certificate when a connection opens and never again. After a rotation `sweep` ends what runs on connections
that the old key opened, and each new call on them is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from exo_node.errors import KEY_DROPPED, Unauthorized
from exo_node.transport.status import abort_with, kind_of, with_behaviour
from exo_node.transport.tls import TlsIdentity, peer_certificate

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True)
class _Call:
    """A call that runs. `inside`: its handler is at work, and can be cancelled; not so while gRPC sends."""

    certificate: bytes
    inside: bool = True
    swept: bool = False


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """The first interceptor of a server. Calls of the methods `lasting` are refused as all others, but not ended."""

    def __init__(self, tls: TlsIdentity, lasting: Collection[str] = ()) -> None:
        self._tls = tls
        self._lasting = frozenset(lasting)
        self._running: dict[asyncio.Task[Any], _Call] = {}

    def sweep(self) -> int:
        """End every call that an untrusted certificate began; returns how many."""
        ended = 0
        for task, call in self._running.items():
            if not call.swept and not self._tls.admits(call.certificate):
                call.swept = True
                ended += 1
                if call.inside:
                    task.cancel()
        return ended

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
        async def call(request: Any, context: Context) -> Any:
            async with self._entered(context, lasts):
                return await inner(request, context)

        return call

    def _stream(self, inner: Callable[..., AsyncIterator[Any]], lasts: bool) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._entered(context, lasts) as running:
                responses: Any = inner(request, context)
                try:
                    async for response in responses:
                        running.inside = False
                        yield response
                        running.inside = True
                        if running.swept:
                            await _refuse(context)
                finally:
                    await responses.aclose()

        return call

    @contextlib.asynccontextmanager
    async def _entered(self, context: Context, lasts: bool) -> AsyncGenerator[_Call, None]:
        running = _Call(peer_certificate(context))
        if not self._tls.admits(running.certificate):
            await _refuse(context)
        task = asyncio.current_task()
        assert task is not None
        if not lasts:
            self._running[task] = running
        try:
            yield running
        except asyncio.CancelledError:
            if not running.swept:
                raise
            task.uncancel()
            await _refuse(context)  # gRPC sends no status for a handler that is cancelled: its caller would wait on
        finally:
            self._running.pop(task, None)


async def _refuse(context: Context) -> None:
    await abort_with(context, Unauthorized("this connection's key is trusted no more", code=KEY_DROPPED))
