"""The one mapping between our errors and gRPC's status, in both directions (STYLE rule 5).

An `ExoError` crosses nodes unchanged: it rides in the trailing metadata `exo-error-bin` as JSON. The gRPC status beside
it is for tools and for peers that do not know the class. A status without that metadata was made by gRPC itself and
says what became of the peer or the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from exo_node import errors
from exo_node.errors import DeadlineExceeded, ExoError, InvalidRequest, PeerUnavailable, ProtocolMismatch

log = logging.getLogger("exo.transport")

METADATA_KEY = "exo-error-bin"
MAX_MESSAGE = 2000  # characters; gRPC allows about 8 KB of metadata in all

# The most special class decides; a subclass that is not listed has its base's status.
STATUS: dict[type[ExoError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
    errors.UnsupportedModel: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CheckpointError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DigestMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConfigurationError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ProtocolMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ClusterMismatch: grpc.StatusCode.PERMISSION_DENIED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NoCapacity: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DownloadError: grpc.StatusCode.UNAVAILABLE,
    errors.AnswerLost: grpc.StatusCode.ABORTED,
    errors.NodeStopping: grpc.StatusCode.UNAVAILABLE,
    errors.PeerUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.RingBroken: grpc.StatusCode.ABORTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ExoError: grpc.StatusCode.INTERNAL,
}


def status_of(error: ExoError) -> grpc.StatusCode:
    """The gRPC status that goes with an error."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def encode_error(error: ExoError) -> bytes:
    """The value of `exo-error-bin`."""
    return json.dumps(
        {
            "class": type(error).__name__,
            "message": error.message[:MAX_MESSAGE],
            "status": error.status,
            "type": error.type,
            "code": error.code,
            "param": error.param,
            "retry_after": error.retry_after,
            "retryable": error.retryable,
        }
    ).encode()


def decode_error(data: bytes) -> ExoError | None:
    """The error that a peer sent; None if it is not one. A class that we do not know comes as a plain `ExoError`."""
    try:
        fields = json.loads(data)
        cls = _classes().get(fields["class"], ExoError)
        error = cls(str(fields["message"]), param=fields.get("param"), retry_after=fields.get("retry_after"))
        error.code, error.status = fields.get("code"), int(fields["status"])
        if cls is ExoError:
            error.type, error.retryable = str(fields["type"]), bool(fields["retryable"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return error


def _classes() -> dict[str, type[ExoError]]:
    return {cls.__name__: cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ExoError)}


async def abort_with(context: grpc.aio.ServicerContext[Any, Any], error: ExoError) -> NoReturn:
    """End the call with this error."""
    metadata: Any = ((METADATA_KEY, encode_error(error)),)
    await context.abort(status_of(error), error.message[:MAX_MESSAGE], metadata)
    raise AssertionError("abort() returned")


def to_exo(error: grpc.aio.AioRpcError, peer: str) -> ExoError:
    """What went wrong with a call to `peer` (how the user knows it: a node id or host:port)."""
    trailing: Any = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == METADATA_KEY:
            carried = decode_error(value if isinstance(value, bytes) else value.encode())
            if carried is not None:
                return carried
    code, details = error.code(), " ".join((error.details() or "").split())[:300]
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"node {peer} did not answer in time")
    # A killed peer shows as UNAVAILABLE or INTERNAL (ARCHITECTURE 3.12), one that shuts down as CANCELLED.
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED):
        return PeerUnavailable(f"node {peer} cannot be reached: {details or code.name}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ProtocolMismatch(f"node {peer} does not know this call ({details}); run the same exo version everywhere")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return InvalidRequest(f"a message to or from node {peer} is too large: {details}", code="message_too_large")
    return ExoError(f"node {peer} failed: {code.name} {details}".rstrip())


@contextlib.contextmanager
def calling(peer: str) -> Iterator[None]:
    """Client side of the border: whatever ends a call to `peer` is an `ExoError` in the block's caller.

    grpc.aio raises `CancelledError` in who awaits a call whose channel is closed by another task: left alone, it would
    end that task as if its owner had cancelled it.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise to_exo(error, peer) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise PeerUnavailable(f"the connection to node {peer} was closed during a call") from None


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Server side of the border: an `ExoError` raised by any handler reaches the caller as that error."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        return handler if handler is None else guarded(handler)


def guarded(handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    """`handler` with its errors turned into statuses, and so that a message that is none ends its call and no more:
    gRPC would log a traceback for it, and show the caller the exception's class."""
    method: Any = handler
    behaviour = getattr(handler, kind_of(handler))
    wrap = _guard_stream if inspect.isasyncgenfunction(behaviour) else _guard_coroutine
    made = with_behaviour(handler, wrap(behaviour))
    if method.request_streaming or method.request_deserializer is None:
        return made  # a stream's messages are read within the handler
    return made._replace(request_deserializer=_careful(method.request_deserializer))  # type: ignore[attr-defined, no-any-return]


def kind_of(handler: grpc.RpcMethodHandler[Any, Any]) -> str:
    """ "unary_unary", "unary_stream", "stream_unary" or "stream_stream"."""
    method: Any = handler
    return "_".join(
        "stream" if streams else "unary" for streams in (method.request_streaming, method.response_streaming)
    )


def with_behaviour(
    handler: grpc.RpcMethodHandler[Any, Any], behaviour: Callable[..., Any]
) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of the same method that runs `behaviour`."""
    method: Any = handler
    make: Callable[..., grpc.RpcMethodHandler[Any, Any]] = getattr(grpc, f"{kind_of(handler)}_rpc_method_handler")
    return make(behaviour, method.request_deserializer, method.response_serializer)


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Takes the place of a request that could not be read."""

    error: Exception


def _careful(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def careful(data: bytes) -> Any:
        try:
            return read(data)
        except (DecodeError, ExoError) as error:
            return _Unreadable(error)

    return careful


def _told(error: Exception) -> ExoError:
    """What a caller hears of it. One that is no `ExoError` is our bug, and logged here."""
    if isinstance(error, ExoError):
        return error
    if isinstance(error, DecodeError):
        return InvalidRequest(f"the message cannot be read: {error}")
    if isinstance(error, NotImplementedError):  # of the generated base class
        return ProtocolMismatch("this node does not know this call; run the same exo version everywhere")
    log.error("a call failed", exc_info=error)
    return ExoError("the node failed at this call; its log says how")


def _guard_coroutine(behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            if type(request) is _Unreadable:
                raise request.error
            return await behaviour(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # the border: whatever it is, the caller gets an error of ours
            await abort_with(context, _told(error))

    return call


def _guard_stream(behaviour: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        if type(request) is _Unreadable:
            await abort_with(context, _told(request.error))
        responses: Any = behaviour(request, context)
        try:
            async for response in responses:
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # the border, as above
            await abort_with(context, _told(error))
        finally:
            await responses.aclose()

    return call
