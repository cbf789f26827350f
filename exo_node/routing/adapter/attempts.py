"""The attempts of one call: each is announced to profile, breaker and limits when it starts and settled when it ends.

Every attempt ends exactly once, as `answered`, `failed` or `dropped`, and leaves an `AttemptRecord`. What a provider
may have billed for an attempt that failed is estimated and marked, so that nothing is paid twice without a trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from exo_node.errors import DeadlineExceeded
from exo_node.routing.adapter.ports import Breaker, Gate, Profile
from exo_node.routing.call import (
    CHARACTERS_PER_TOKEN,
    INVALID_TOOL_CALL,
    MAY_BE_BILLED,
    QUEUE_FULL,
    UNSUPPORTED,
    UNSUPPORTED_THERE,
    WORKER_LOST,
    AttemptRecord,
    Call,
    UpstreamError,
    images_of,
)
from exo_node.routing.plan import Candidate, Step
from exo_node.routing.policy.options import answer_room
from exo_node.types import Usage

# Not the backend's doing: says nothing about its health.
_BLAMELESS = frozenset({"bad_request", "content_filter", "context", "cancelled"})
_NOT_ITS_HEALTH = frozenset({UNSUPPORTED, UNSUPPORTED_THERE, WORKER_LOST, INVALID_TOOL_CALL, *QUEUE_FULL})


def is_priced(candidate: Candidate) -> bool:
    """Whether it is known what the candidate's tokens cost; a ring's cost nothing."""
    return candidate.price is not None or candidate.kind == "ring"


@dataclass(slots=True)
class Tried:
    """One attempt while it runs. `characters` of the answer came so far, in `pieces` events."""

    step: Step
    record: AttemptRecord
    started: float
    reserved: int
    prompt_tokens: int
    ended: bool = False
    last: float = 0.0  # when the newest content came
    characters: int = 0
    pieces: int = 0

    @property
    def candidate(self) -> Candidate:
        return self.step.candidate

    @property
    def completion_tokens(self) -> int:
        """An estimate: most providers send a token an event, some send many."""
        return max(self.pieces, math.ceil(self.characters / CHARACTERS_PER_TOKEN))


@dataclass(slots=True)
class Attempts:
    """All attempts of `call`, in order."""

    call: Call
    profile: Profile
    breaker: Breaker
    gate: Gate
    clock: Callable[[], float]
    records: list[AttemptRecord] = field(default_factory=list)
    errors: list[tuple[Step, UpstreamError]] = field(default_factory=list)

    async def begin(self, step: Step, *, streamed: bool = True) -> Tried:
        """Take the room that the attempt needs and announce it. Raises `UpstreamError` where there is none now.

        `streamed` False: a cascade asks for a whole answer though the call wants a stream.
        """
        candidate = step.candidate
        answer = answer_room(self.call.kind, self.call.max_tokens, self.call.answers)
        reserved = self.call.prompt_tokens + answer
        # What it may cost, not what it will probably: money that is kept free for nobody is spent twice.
        price, images = candidate.price, images_of(self.call)
        cost = None if price is None else price.cost(self.call.prompt_tokens, answer, images=images)
        if not await self.gate.acquire(candidate, reserved, cost):
            why, wait_s = self.gate.why_full(candidate, reserved, cost)
            error = UpstreamError(f"{candidate.backend}: {why}", "rate_limited", retry_after=wait_s)
            self.records.append(AttemptRecord(backend=candidate.backend, cause="rate_limited", status=429))
            self.errors.append((step, error))
            raise error
        record = AttemptRecord(backend=candidate.backend)
        self.records.append(record)
        now = self.clock()
        self.breaker.begin(candidate, now)
        prompt = self.call.prompt_tokens if streamed and self.call.stream else None  # else it is silent until its end
        self.profile.started(candidate.backend, now, id(record), prompt)
        return Tried(step, record, now, reserved, self.call.prompt_tokens, last=now)

    def first_content(self, tried: Tried) -> None:
        now = tried.last = self.clock()
        tried.record.ttft_s = now - tried.started
        ttft_s = tried.record.ttft_s
        self.profile.observe_ttft(tried.candidate, self.call.prompt_tokens, ttft_s, now, id(tried.record))
        self.breaker.answering(tried.candidate, now)

    def answered(self, tried: Tried, usage: Usage | None) -> None:
        """The answer is complete. `usage` None: the backend did not report it, so it is estimated."""
        now = self.clock()
        if usage is None:
            tried.record.usage_estimated = True
            usage = Usage(tried.prompt_tokens, tried.completion_tokens)
        if tried.record.ttft_s is not None and usage.completion_tokens > 1:
            span = tried.last - tried.started - tried.record.ttft_s
            tokens = usage.completion_tokens - 1
            self.profile.observe_itl(tried.candidate, max(0.0, span) / tokens, tokens, now)
        elif tried.record.ttft_s is None:  # a plain answer: nothing earlier than its end was seen
            self._observe_whole(tried, now, usage)
        self.breaker.succeeded(tried.candidate, now)
        self._end(tried, now, usage, 200)

    def failed(self, tried: Tried, error: UpstreamError) -> None:
        if tried.ended:
            return
        now = self.clock()
        self.errors.append((tried.step, error))
        if self._is_to_blame(tried, error, now):
            # Once content came, nobody waited: how long it had flowed until it broke is no time to the first token.
            waited = now - tried.started if tried.record.ttft_s is None else tried.record.ttft_s
            self.profile.observe_failure(tried.candidate, error.cause, waited, now, id(tried.record))
            self.breaker.failed(tried.candidate, error, now)
        else:
            self.breaker.released(tried.candidate, tried.started)
        tried.record.cause = error.cause
        usage = error.used if error.used is not None else self._maybe_billed(tried)
        self._end(tried, now, usage, error.upstream_status or error.status)

    def dropped(self, tried: Tried, cause: str = "cancelled", usage: Usage | None = None) -> None:
        """Ended by us: the client left, a hedge was won by another, a cascade's check refused the answer."""
        if tried.ended:
            return
        tried.record.cause = cause
        if usage is None:
            usage = self._maybe_billed(tried)
            self.breaker.released(tried.candidate, tried.started)
        else:
            self.breaker.succeeded(tried.candidate, self.clock())
        self._end(tried, self.clock(), usage, None)

    def _observe_whole(self, tried: Tried, now: float, usage: Usage) -> None:
        """A plain answer's time is prompt and generation together: take off what its tokens would have taken."""
        took = now - tried.started
        itl = self.profile.itl(tried.candidate, now)
        ttft = max(took - itl * max(0, usage.completion_tokens - 1), took / (1 + usage.completion_tokens))
        self.profile.observe_ttft(tried.candidate, self.call.prompt_tokens, ttft, now, id(tried.record))

    def _is_to_blame(self, tried: Tried, error: UpstreamError, now: float) -> bool:
        """Whether the failure says anything of the backend's health."""
        if error.cause in _BLAMELESS or error.code in _NOT_ITS_HEALTH:
            return False
        if error.cause == "not_found" and self.call.kind != "chat":
            return False  # a host of chats may have no such route, which says nothing of its chats
        # An answer that flowed until the call's own time was over was long, not late (a peer's clock may say it first).
        over = error.code == DeadlineExceeded.code or (error.cause == "timeout" and now >= self.call.deadline - 0.01)
        return not over or tried.record.ttft_s is None

    def _maybe_billed(self, tried: Tried) -> Usage | None:
        """Whatever it broke with: content that came had been made."""
        if tried.record.cause not in MAY_BE_BILLED and tried.record.ttft_s is None:
            return None
        tried.record.usage_estimated = True
        return Usage(tried.prompt_tokens, tried.completion_tokens)

    def _end(self, tried: Tried, now: float, usage: Usage | None, status: int | None) -> None:
        tried.ended = True
        record, candidate = tried.record, tried.candidate
        record.total_s, record.status, record.usage = now - tried.started, status, usage
        if usage is not None:
            if candidate.price is not None:
                record.cost = candidate.price.cost(
                    usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, images_of(self.call)
                )
            record.cost_known = is_priced(candidate)
        self.profile.ended(candidate.backend, id(record))
        used = 0 if usage is None else usage.prompt_tokens + usage.completion_tokens
        if used:
            self.profile.used(candidate, used, now)
        self.gate.settle(candidate, tried.reserved, used, record.cost)

    # -- what the client is told

    @property
    def cost(self) -> float:
        return self.records[0].cost if len(self.records) == 1 else sum(record.cost for record in self.records)

    @property
    def cost_known(self) -> bool:
        return all([record.cost_known for record in self.records])

    @property
    def used(self) -> tuple[Usage, bool]:
        """The tokens of all attempts together, and whether some are estimated."""
        used = [(record.usage, record.usage_estimated) for record in self.records if record.usage is not None]
        total = Usage(
            sum([usage.prompt_tokens for usage, _ in used]),
            sum([usage.completion_tokens for usage, _ in used]),
            sum([usage.cached_tokens for usage, _ in used]),
        )
        return total, any([estimated for _, estimated in used])

    @property
    def cost_estimated(self) -> bool:
        return any([record.usage_estimated and record.cost for record in self.records])

    def header(self, running: Tried | None = None) -> str:
        """`openai/gpt-4o:rate_limited, ring:demo:ok`."""
        live = running.record if running is not None else None
        if len(self.records) == 1 and self.records[0] is live:
            return f"{live.backend}:ok"
        words = [f"{one.backend}:{'ok' if one is live else one.cause or 'ok'}" for one in self.records]
        return ", ".join(words)
