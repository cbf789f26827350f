"""A peer's deployment as an `Upstream`: the peer holds the key and asks the provider; we relay its answer."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator
from typing import Any, Protocol, cast, get_args

import orjson

from exo_node.errors import DeadlineExceeded, ExoError, InvalidRequest, PeerUnavailable
from exo_node.routing.call import Attempt, Batch, ErrorClass, UpstreamError, Whole
from exo_node.routing.upstream.sse_reader import SSEReader
from exo_node.transport.generated.exo.v1 import node_pb2 as pb


class Peer(Protocol):
    """An authenticated connection to another daemon (transport/client.py)."""

    def stream(self, method: str, request: Any, timeout: float | None) -> AsyncGenerator[Any, None]: ...


class PeerUpstream:
    """`deployment_id` is the peer's own id of it; `name` how messages call it."""

    def __init__(self, peer: Peer, deployment_id: str, name: str) -> None:
        self._peer = peer
        self._deployment_id = deployment_id
        self._name = name

    async def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]:
        reader = SSEReader(self._name)
        async with contextlib.aclosing(self._ask(attempt, stream=True)) as chunks:
            async for chunk in chunks:
                batch = reader.feed(chunk.frames)
                if batch is not None:
                    yield batch
                if reader.failure is not None:
                    raise reader.failure

    async def whole(self, attempt: Attempt) -> Whole:
        raw, content_type = bytearray(), "application/json"
        async with contextlib.aclosing(self._ask(attempt, stream=False)) as chunks:
            async for chunk in chunks:
                raw += chunk.whole.raw
                content_type = chunk.whole.content_type
        data = orjson.loads(raw) if content_type.startswith("application/json") and raw else None
        return Whole(bytes(raw), data if isinstance(data, dict) else None, content_type)

    async def _ask(self, attempt: Attempt, *, stream: bool) -> AsyncGenerator[pb.RelayChunk, None]:
        call = attempt.call
        request = pb.RelayRequest(
            deployment_id=self._deployment_id,
            kind=call.kind,
            body_json=json.dumps(dict(call.body)).encode(),
            stream=stream,
            prompt_tokens=call.prompt_tokens,
            max_tokens=call.max_tokens or 0,
            request_id=call.id,
            partial_text=attempt.partial.text if attempt.partial else "",
            first_ms=round((attempt.first_s or 0) * 1000),
            idle_ms=round((attempt.idle_s or 0) * 1000),
            files=[
                pb.RelayFile(field=one.field, filename=one.filename, content_type=one.content_type, data=one.data)
                for one in call.files
            ],
        )
        timeout_s = max(0.001, min(attempt.timeout_s, call.deadline - time.monotonic()))
        try:
            async with contextlib.aclosing(self._peer.stream("Relay", request, timeout_s)) as chunks:
                async for chunk in chunks:
                    if chunk.WhichOneof("chunk") == "error":
                        raise error_from_pb(chunk.error)
                    yield chunk
        except PeerUnavailable as error:
            raise UpstreamError(f"{self._name}: {error.message}", "reset") from error
        except DeadlineExceeded as error:
            raise UpstreamError(f"{self._name}: no answer in time", "timeout") from error


def error_from_pb(message: pb.RelayError) -> ExoError:
    """The error that the peer met, with its cause."""
    common: dict[str, Any] = {
        "status": message.status or None,
        "code": message.code or None,
        "param": message.param or None,
        "retry_after": message.retry_after or None,
    }
    if message.cause in get_args(ErrorClass):
        return UpstreamError(
            message.message,
            cast(ErrorClass, message.cause),
            upstream_status=message.upstream_status or None,
            **common,
        )
    if 400 <= message.status < 500:
        return InvalidRequest(message.message, **common)
    return UpstreamError(message.message, "unavailable", **common)
