"""One client's call as the adapter sees it, and what a backend answers. Data and protocols only.

A call keeps OpenAI's shape from the client to the backend: one that speaks it gets the body nearly as it came, and its
answer is relayed as it comes. The ring's `GenerationRequest` is made from it by the ring's own upstream.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from exo_node.errors import ExoError
from exo_node.types import Priority, Usage

CallKind = Literal["chat", "completion", "embedding", "rerank", "image", "speech", "transcription", "moderation"]
Continuation = Literal["off", "same-model", "any"]
Capability = Literal["tools", "vision", "json_schema", "prefill", "audio", "logprobs", "embedding", "rerank"]


# Estimates made without a tokenizer: English text in the common ones; OpenAI's example, a 1024 x 1024 image for gpt-4o.
CHARACTERS_PER_TOKEN, IMAGE_TOKENS = 4, 765


@dataclass(frozen=True, slots=True)
class FormFile:
    """The file of a multipart call (transcriptions)."""

    field: str
    filename: str
    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the request itself says of its routing; None: the node's setting holds.

    Sent as the body's `exo` object (`{"exo": {"strategy": ..., "max_cost": ...}}`), `provider` also as a field of its
    own. They are taken out of the body before it goes anywhere.
    """

    provider: str | None = None
    strategy: str | None = None
    max_cost: float | None = None  # USD for this request, predicted
    fallbacks: tuple[str, ...] | None = None  # models to try when the asked one fails
    continuation: Continuation | None = None
    equivalents: Literal["off", "failover", "latency"] | None = None
    no_cache: bool = False  # neither read nor write the response cache (Cache-Control: no-cache / no-store)
    cache_ttl_s: float | None = None
    record: str | None = None  # a provider record of document 004: no other record's deployments


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the id of an API key ("" where none is needed) and the request's `user` field ("" where absent)."""

    key_id: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """Which tokens a stream's frames so far are made of. `ids` (`before` and then `more`, which grows) are theirs while
    rings of `ids_model` alone made them, else there are none; `model_id` is who answers."""

    before: tuple[int, ...]
    more: Sequence[int]
    ids_model: str
    model_id: str


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer that another node had begun to stream, for `Call.begun`: `raw` are all its frames, and of whom they are
    is as in `Said`. What is served are the frames after them."""

    raw: bytes
    ids: tuple[int, ...] = ()
    ids_model: str = ""
    model_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request. `body` is the client's JSON object, checked for its shape only, without our own fields.

    `deadline` is on `time.monotonic()`'s clock. `prompt_tokens` is an estimate (characters / 4) made without a
    tokenizer; `max_tokens` is what the client allows for the answer, None where it does not say. A call may have
    several prompts and several `answers`: these numbers are of all of them together, `longest` is of the longest prompt
    alone (0: there is but one).
    """

    id: str
    kind: CallKind
    model: str
    body: Mapping[str, Any]
    stream: bool
    deadline: float
    prompt_tokens: int
    max_tokens: int | None = None
    longest: int = 0
    answers: int = 1
    needs: frozenset[Capability] = frozenset()
    wishes: Wishes = field(default_factory=Wishes)
    caller: Caller = field(default_factory=Caller)
    files: tuple[FormFile, ...] = ()
    priority: Priority = "normal"  # at the ring; for other backends `service_tier` stays in the body
    reuse_prompts: bool = True  # at the ring: what it keeps of its caller's earlier prompts may be used
    seed: int | None = None  # at the ring, where the body has none: whoever goes on with the answer draws the same
    begun: Begun | None = None
    broke_for_s: float | None = None  # nothing is left of a budget of its caller's until then: only what is free serves


def images_of(call: Call) -> int:
    """How many pictures the call wants made."""
    n = call.body.get("n")
    return 0 if call.kind != "image" else n if isinstance(n, int) and n > 0 else 1


@dataclass(frozen=True, slots=True)
class Partial:
    """The part of an answer that the client already has, for a backend that is to go on from it.

    `text` is the assistant's text so far. `token_ids` are its ids where a ring of the same model made all of it
    (exact), else empty. `completion_tokens` counts them (an estimate where the first backend did not report).
    """

    text: str
    token_ids: tuple[int, ...] = ()
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a call at one backend. Times are seconds from now; None: no such limit.

    `first_s` bounds the wait for the first content, `idle_s` the silence after it (enforced by the adapter; an upstream
    may use them for its sockets), `timeout_s` everything.
    """

    call: Call
    timeout_s: float
    first_s: float | None = None
    idle_s: float | None = None
    partial: Partial | None = None


@dataclass(slots=True)
class Batch:
    """Complete server-sent events that came together: `raw` as they were sent, `events` parsed, in order.

    `raw` ends with a blank line and never holds `[DONE]`. `token_ids`: ids of the ring's tokens in these events.
    `texts`, where there are any: the events but the `first` and `last` are all alike, like one before them but for the
    text of choice 0, which is this, and `events` are parsed when somebody looks. `last` begin at `cut` of `raw`.
    """

    raw: bytes
    events: Sequence[dict[str, Any]]
    token_ids: tuple[int, ...] = ()
    texts: Sequence[str] | None = None
    first: Sequence[dict[str, Any]] = ()
    last: Sequence[dict[str, Any]] = ()
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Whole:
    """A complete answer: a JSON object with the bytes it came as, or (audio) bytes of another `content_type`."""

    raw: bytes
    data: dict[str, Any] | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Upstream(Protocol):
    """One backend, ready to be asked. Both raise `UpstreamError` (or another `ExoError`, which never fails over).

    `stream` yields until the answer's end; it raises `UpstreamError` when the stream ends in the middle of an event, is
    malformed, or carries an error event. That every choice had its `finish_reason` is checked by the adapter. Closing
    the generator cancels the work behind it.
    """

    def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]: ...

    async def whole(self, attempt: Attempt) -> Whole: ...


ErrorClass = Literal[
    "refused",  # nothing listens, unreachable
    "dns",
    "tls",
    "auth",  # 401, 403
    "not_found",  # 404: no such model or route there
    "rate_limited",  # 429
    "bad_request",  # 400, 413, 422: the request's own fault, never retried elsewhere unless `context` or capability
    "context",  # 400 because the prompt is too long for this backend
    "content_filter",
    "server",  # 5xx
    "timeout",  # no first content, silence, or the attempt's time is over
    "reset",  # connection broke
    "eof",  # the stream ended without a finish_reason
    "malformed",  # not SSE, not JSON, not the shape
    "unavailable",  # this side cannot ask it now: sidecar down, extra not installed, peer gone
    "cancelled",  # the client went away
]

# Worth another backend: the request itself is not to blame.
FAILS_OVER: frozenset[str] = frozenset(
    {
        "refused", "dns", "tls", "auth", "not_found", "rate_limited", "context", "server", "timeout", "reset", "eof",
        "malformed", "unavailable",
    }
)  # fmt: skip

# The provider had accepted the request when these happened, so it may bill the prompt. ("escalated": a cascade's.)
MAY_BE_BILLED: frozenset[str] = frozenset({"timeout", "reset", "eof", "malformed", "cancelled", "escalated"})


class UpstreamError(ExoError):
    """A backend failed. `cause` says how; the message names the backend and holds no secret.

    `status` is what the client sees if no other backend answers: the upstream's own for 4xx that are the request's
    fault, 429 for rate limits, 504 for timeouts, else 502/503.
    """

    status, type, code, retryable = 502, "server_error", "upstream_error", True

    def __init__(
        self,
        message: str,
        cause: ErrorClass,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        upstream_status: int | None = None,
    ) -> None:
        super().__init__(message, status=status or STATUS_OF.get(cause, 502), code=code or f"upstream_{cause}",
                         param=param, retry_after=retry_after)  # fmt: skip
        self.cause: ErrorClass = cause
        self.upstream_status = upstream_status
        self.used: Usage | None = None  # reported, though it failed: by our sidecar
        self.retryable = cause in FAILS_OVER
        if cause in ("bad_request", "context", "not_found") or self.status == 400:
            self.type = "invalid_request_error"
        elif cause == "rate_limited":
            self.type = "rate_limit_error"

    @property
    def fails_over(self) -> bool:
        return self.cause in FAILS_OVER


# Codes of failures that are not the backend's: our own helper process died, the model cannot call tools in words.
WORKER_LOST, INVALID_TOOL_CALL = "worker_lost", "invalid_tool_call"
# Codes of a request that asks for more than this backend can, as we or the provider say: another one may do it.
UNSUPPORTED, UNSUPPORTED_THERE = "unsupported_parameter", "unsupported_by_backend"
# Codes of a ring that is busy, not broken (errors.Overloaded): who asks less often is served.
QUEUE_FULL = frozenset({"queue_full", "key_queue_full"})

STATUS_OF: Mapping[str, int] = {
    "bad_request": 400,
    "content_filter": 400,
    "context": 400,
    "not_found": 404,
    "rate_limited": 429,
    "timeout": 504,
    "unavailable": 503,
    "refused": 502,
    "auth": 502,  # our key is wrong, not the caller's
}


@dataclass(slots=True, kw_only=True)
class AttemptRecord:
    """What became of one attempt, for headers, logs and callbacks."""

    backend: str
    cause: str = ""  # "" = answered; an ErrorClass otherwise
    status: int | None = None
    ttft_s: float | None = None
    total_s: float = 0.0
    usage: Usage | None = None
    usage_estimated: bool = False
    cost: float = 0.0  # USD
    cost_known: bool = True  # False: it used tokens whose price nobody knows, and `cost` is 0


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """One finished request, whatever served it: told once to the spend log, the metrics and every callback.

    `started` is wall-clock (time.time()). `backend` "" when nothing answered. `text` is the answer's text (chat and
    completion; cut at 1 MB), `error` the message that the client got. Never holds a key.
    """

    id: str
    kind: CallKind
    model: str  # as asked
    served_model: str
    backend: str
    provider: str  # "exo" for the ring
    stream: bool
    caller: Caller
    started: float
    ttft_s: float | None = None
    total_s: float = 0.0
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    usage_estimated: bool = False
    cost: float = 0.0
    cost_known: bool = True  # False: `cost` lacks the attempts whose price nobody knows
    cached: bool = False
    continued: bool = False
    status: int = 200
    error: str = ""
    error_code: str = ""
    attempts: list[AttemptRecord] = field(default_factory=list)
    body: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


class CallSink(Protocol):
    """Hears of every finished call; must not raise and must not wait (the event loop calls it)."""

    def __call__(self, record: CallRecord, /) -> None: ...


class Outlet:
    """A short cut of a stream's frames to their client: `write`, while there is one, takes a frame at once, without
    waking the frames' reader. False: `drain` before the next one. Used only while the reader waits for a frame."""

    __slots__ = ("drain", "write")

    def __init__(self) -> None:
        self.write: Callable[[bytes], bool] | None = None
        self.drain: Callable[[], Awaitable[None]] | None = None


@dataclass(slots=True, kw_only=True)
class Reply:
    """What the adapter answers: `whole`, or a stream of raw SSE frames without the final `[DONE]`.

    `headers` are the `x-exo-*` headers (which backend, why, attempts, predicted and real TTFT, cost where known).
    The frames' generator raises `ExoError` when the answer breaks off for good; closing it cancels the backend.
    Who reads them and sends them on as they are may open the `outlet`, past which `frames` then has only the rest.
    """

    headers: dict[str, str]
    whole: Whole | None = None
    frames: AsyncGenerator[bytes, None] | None = None
    outlet: Outlet | None = None
    said: Callable[[], Said] | None = None  # of the frames that `frames` has given so far
