"""Calls this node's deployments for peers that do not hold the key. The key, and the address, stay here.

What a peer asks counts against this node's limits and budgets of the deployment; the peer that has the client logs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol, get_args

from exo_node.errors import ExoError, InvalidRequest
from exo_node.routing.call import (
    MAY_BE_BILLED,
    Attempt,
    Batch,
    Call,
    CallKind,
    FormFile,
    Partial,
    Upstream,
    UpstreamError,
    Whole,
)
from exo_node.routing.upstream.transcript import whole_usage
from exo_node.transport.generated.exo.v1 import node_pb2 as pb

log = logging.getLogger("exo.routing")

PIECE = 1024 * 1024  # bytes of a whole answer in one message: gRPC bounds messages, answers with audio are larger
NO_DEADLINE_S = 900.0


class Lent(Protocol):
    """One deployment while a peer uses it."""

    upstream: Upstream

    def settle(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> None:
        """What was really used; called once, however it ended, or `unused` is."""
        ...

    def unused(self) -> None:
        """The provider has made nothing of it."""
        ...


Lend = Callable[[str, Call], Any]  # (deployment id, call) -> awaitable of Lent; raises UpstreamError


class RelayHost:
    """`lend` finds a deployment and takes from its limits; `rows` gives the latency profile."""

    def __init__(self, lend: Lend, rows: Callable[[], list[dict[str, Any]]]) -> None:
        self._lend = lend
        self._rows = rows
        self._running = 0
        self._leaving = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def drain(self, seconds: float) -> None:
        """This node leaves: no new calls from now on, `seconds` for those that run.

        What runs still breaks when the connections to the providers close; the peers then go on elsewhere.
        """
        self._leaving = True
        if self._running:
            log.info("leaving; calls of peers that may run for %g s more: %d", seconds, self._running)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    def profile(self) -> bytes:
        return json.dumps(self._rows()).encode()

    async def relay(self, request: pb.RelayRequest, seconds: float | None) -> AsyncGenerator[pb.RelayChunk, None]:
        """See `transport.node_servicer.RelayHost`. A provider's failure comes as the last message, with its cause."""
        attempt = attempt_of(request, seconds)
        if self._leaving:
            yield pb.RelayChunk(error=error_to_pb(UpstreamError("the node that has the key is leaving", "unavailable")))
            return
        self._running += 1
        self._idle.clear()
        try:
            async with contextlib.aclosing(self._answer(request, attempt)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _answer(self, request: pb.RelayRequest, attempt: Attempt) -> AsyncGenerator[pb.RelayChunk, None]:
        try:
            lent = await self._lend(request.deployment_id, attempt.call)
            used, refused = Used(), False
            try:
                if request.stream:
                    async with contextlib.aclosing(lent.upstream.stream(attempt)) as batches:
                        async for batch in batches:
                            used.add(batch)
                            yield pb.RelayChunk(frames=batch.raw)
                else:
                    whole: Whole = await lent.upstream.whole(attempt)
                    used.take(whole.data)
                    for start in range(0, max(1, len(whole.raw)), PIECE):
                        piece = pb.RelayWhole(raw=whole.raw[start : start + PIECE], content_type=whole.content_type)
                        yield pb.RelayChunk(whole=piece)
            except ExoError as error:
                accepted = isinstance(error, UpstreamError) and error.cause in MAY_BE_BILLED
                refused = not accepted and not used.completion
                raise
            finally:
                if refused:
                    lent.unused()
                else:
                    lent.settle(used.prompt or attempt.call.prompt_tokens, used.completion, used.cached)
        except ExoError as error:
            yield pb.RelayChunk(error=error_to_pb(error))


class Used:
    """Tokens of an answer: reported, else one per event with content."""

    def __init__(self) -> None:
        self.prompt = self.completion = self.cached = 0
        self._reported = False

    def add(self, batch: Batch) -> None:
        for event in batch.events:
            if event.get("usage"):
                self.take(event)
            elif event.get("choices") and not self._reported:
                self.completion += 1

    def take(self, data: dict[str, Any] | None) -> None:
        usage = whole_usage(data or {})
        if usage is not None:
            self._reported = True
            self.prompt, self.completion, self.cached = (
                usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens,
            )  # fmt: skip


def attempt_of(request: pb.RelayRequest, seconds: float | None) -> Attempt:
    """Raises `InvalidRequest` for a message that no node of ours sends."""
    if request.kind not in get_args(CallKind):
        raise InvalidRequest(f"unknown kind of call {request.kind!r}", param="kind")
    try:
        body = json.loads(request.body_json)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the relayed body is no JSON: {error}", param="body_json") from error
    if not isinstance(body, dict):
        raise InvalidRequest("the relayed body is no JSON object", param="body_json")
    timeout_s = seconds if seconds is not None else NO_DEADLINE_S
    kind: Any = request.kind
    call = Call(
        id=request.request_id,
        kind=kind,
        model=str(body.get("model", "")),
        body=body,
        stream=request.stream,
        deadline=time.monotonic() + timeout_s,
        prompt_tokens=request.prompt_tokens,
        max_tokens=request.max_tokens or None,
        files=tuple(FormFile(one.field, one.filename, one.content_type, one.data) for one in request.files),
    )
    partial = Partial(request.partial_text) if request.partial_text else None
    return Attempt(
        call=call,
        timeout_s=timeout_s,
        first_s=request.first_ms / 1000 or None,
        idle_s=request.idle_ms / 1000 or None,
        partial=partial,
    )


def error_to_pb(error: ExoError) -> pb.RelayError:
    upstream = error if isinstance(error, UpstreamError) else None
    return pb.RelayError(
        cause=upstream.cause if upstream else "",
        message=error.message,
        status=error.status,
        code=error.code or "",
        param=error.param or "",
        retry_after=error.retry_after or 0.0,
        upstream_status=(upstream.upstream_status if upstream else 0) or 0,
    )
