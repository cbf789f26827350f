"""The local ring as one backend of the adapter: OpenAI's body in, OpenAI's events or object out.

What fails because of the ring becomes an `UpstreamError`, so that another backend may answer; its `__cause__` is the
ring's own error, which the client gets when nobody else can. What the ring cannot do (tools, images, ...) likewise.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from exo_node import errors
from exo_node.api import sse
from exo_node.api.client_headers import without_client_headers
from exo_node.api.fanout import Fanout
from exo_node.api.local_embeddings import embeddings_object, parse_embedding
from exo_node.api.openai_request import ParsedRequest, parse_chat, parse_completion
from exo_node.api.openai_response import Answer
from exo_node.api.tiers import TIER_OF
from exo_node.config import Settings
from exo_node.errors import ExoError
from exo_node.routing import anthropic_extras
from exo_node.routing.call import Attempt, Batch, Call, ErrorClass, UpstreamError, Whole
from exo_node.routing.frames import frame
from exo_node.types import Backend

PARSE = {"chat": parse_chat, "completion": parse_completion}
CAUSES: tuple[tuple[type[ExoError], ErrorClass], ...] = (
    (errors.DeadlineExceeded, "timeout"),
    (errors.PeerUnavailable, "refused"),  # worth another try: without that peer the ring is placed anew
    (errors.Overloaded, "rate_limited"),
    (errors.NoCapacity, "unavailable"),
    (errors.DownloadError, "unavailable"),
    (errors.EngineUnavailable, "unavailable"),
    (errors.CheckpointError, "unavailable"),
    (errors.UnsupportedModel, "unavailable"),
    (errors.DigestMismatch, "unavailable"),
    (errors.ProtocolMismatch, "unavailable"),
    (errors.ClusterMismatch, "unavailable"),
    (errors.ModelNotFound, "not_found"),
    (errors.ContextLengthExceeded, "context"),
    (errors.RingBroken, "reset"),
)


# What ends an answer that had begun, though its ring is not to blame: the client's time, the request itself, or that
# there is no place for one of its choices (an answer that goes on always has one).
NOT_LOST = (errors.DeadlineExceeded, errors.ContextLengthExceeded, errors.EngineFailed, errors.Overloaded)
LOST_RETRY_S = 5.0  # until a ring that lost a node may fit again


@dataclass(slots=True)
class _Said:
    """How much of an answer came, from an earlier attempt too."""

    tokens: int = 0


class RingUpstream:
    """`routing.call.Upstream` over a `types.Backend`, for chat, completion and embedding."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings

    async def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]:
        """Each batch is what came from the ring meanwhile; the usage comes last, whether asked for or not."""
        said = _Said(0 if attempt.partial is None else attempt.partial.completion_tokens)
        with _failing_over(said):
            parsed = parse_call(attempt, self._settings)
            answer = Answer(parsed, int(time.time()))
            alone = len(parsed.requests) == 1
            events = answer.opening()
            async with Fanout(self._backend, parsed.requests) as fanout:
                while fanout.running:
                    ids: tuple[int, ...] = ()
                    for index, delta in await fanout.take():
                        events.extend(answer.chunks(index, delta))
                        said.tokens += len(delta.token_ids)
                        ids += delta.token_ids if alone else ()
                    if events or ids:
                        yield _batch(events, ids)
                        events = []
            yield _batch([answer.usage_chunk()], ())

    async def whole(self, attempt: Attempt) -> Whole:
        said = _Said()
        with _failing_over(said):
            if attempt.call.kind == "embedding":
                return _whole(await self._embeddings(attempt))
            parsed = parse_call(attempt, self._settings)
            answer = Answer(parsed, int(time.time()))
            async with Fanout(self._backend, parsed.requests) as fanout:
                while fanout.running:
                    for index, delta in await fanout.take():
                        answer.add(index, delta)
                        said.tokens += len(delta.token_ids)
        return _whole(answer.whole())

    async def _embeddings(self, attempt: Attempt) -> dict[str, object]:
        call = attempt.call
        model = call.model or self._settings.default_model or ""
        asked = parse_embedding(call.body, call.id, model, attempt.timeout_s)
        asked = replace(asked, client=client_of(call), priority=call.priority)
        encoding = "base64" if call.body.get("encoding_format") == "base64" else "float"
        return embeddings_object(await self._backend.embed(asked), model, encoding)


def parse_call(attempt: Attempt, settings: Settings) -> ParsedRequest:
    """What the ring is to make. Raises `InvalidRequest`, and `UpstreamError` for what is no text."""
    call = attempt.call
    parse = PARSE.get(call.kind)
    if parse is None:
        raise UpstreamError(f"the ring makes text only, no {call.kind}", "unavailable")
    body, prefix, options = anthropic_extras.for_ring(call.body)
    if isinstance(body.get("messages"), list):
        body = {**body, "messages": without_client_headers(body["messages"])}
    parsed = parse(body, call.id, settings)
    partial, prefilled = attempt.partial, len(prefix)
    ids: tuple[int, ...] = ()
    if partial is not None:
        prefix, ids = prefix + partial.text, () if prefix else partial.token_ids
    requests = tuple(
        replace(
            one,
            timeout_s=attempt.timeout_s,
            seed=call.seed if one.seed is None else one.seed,
            prefix=prefix,
            prefix_ids=ids,
            prefilled=prefilled,
            template_hints=options,
            client=client_of(call),
            priority=call.priority,
        )
        for one in parsed.requests
    )
    tier = None if call.body.get("service_tier") is None else TIER_OF[call.priority]
    return replace(parsed, requests=requests, service_tier=tier)


def client_of(call: Call) -> str:
    """Among whose requests the ring shares its slots fairly and looks for prompts that begin alike: an API key's."""
    return call.caller.key_id if call.reuse_prompts else call.id


def _whole(data: dict[str, object]) -> Whole:
    return Whole(sse.frame(data)[len(b"data: ") :].rstrip(), data)


def _batch(events: list[dict[str, object]], ids: tuple[int, ...]) -> Batch:
    # Not sse.frame: a chunk has no numbers but those that openai_response.py looks at, and there are many chunks.
    return Batch(b"".join(map(frame, events)), events, ids)


@contextmanager
def _failing_over(said: _Said) -> Iterator[None]:
    try:
        yield
    except UpstreamError:
        raise
    except ExoError as error:
        cause = cause_of(error)
        if cause is None:
            raise
        if said.tokens and not isinstance(error, NOT_LOST):
            error, found = lost(said.tokens, error), error
            error.__cause__ = found
        raise UpstreamError(
            f"ring: {error.message}",
            cause,
            status=error.status,
            code=error.code,
            param=error.param,
            retry_after=error.retry_after,
        ) from error


def lost(tokens: int, error: ExoError) -> errors.AnswerLost:
    """The end of an answer of so many tokens that no node goes on with: for a stream what the client is told last, for
    a plain answer all that it gets, whatever the last attempt to go on met with."""
    return errors.AnswerLost(
        f"the answer broke off after {tokens} token{'s' if tokens > 1 else ''}: {error.message}",
        retry_after=error.retry_after or LOST_RETRY_S,
    )


def cause_of(error: ExoError) -> ErrorClass | None:
    """Why another backend may be worth asking; None: the request itself is at fault, or this program is."""
    if error.code == "unsupported_parameter":
        return "unavailable"
    for kind, cause in CAUSES:
        if isinstance(error, kind):
            return cause
    return "server" if error.status >= 500 and error.retryable else None
