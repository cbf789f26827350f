"""One call from its plan to its answer: tries backends in the course's order, hedges, escalates, continues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial as bound
from typing import Any, TypeVar

from exo_node.errors import ExoError
from exo_node.routing.adapter import cascade
from exo_node.routing.adapter.attempts import Attempts, Tried
from exo_node.routing.adapter.continuation import (
    Delivered,
    closing,
    delivered_of,
    may_continue,
    refusal,
    rest_of,
)
from exo_node.routing.adapter.course import Course
from exo_node.routing.adapter.failure import final_error
from exo_node.routing.adapter.hedge import race
from exo_node.routing.adapter.parts import Options, Parts
from exo_node.routing.adapter.relay import Live, Story, code_of_lateness, open_stream, relay
from exo_node.routing.adapter.report import Report, text_of
from exo_node.routing.adapter.watch import Within
from exo_node.routing.cache.replay import replay
from exo_node.routing.call import Attempt, Begun, Call, Outlet, Partial, Reply, Upstream, UpstreamError, Whole
from exo_node.routing.frames import frame
from exo_node.routing.plan import Candidate, RoutePlan, Step
from exo_node.routing.upstream.passthrough import PassThrough
from exo_node.routing.upstream.transcript import Transcript, length_of, whole_usage
from exo_node.types import Usage

T = TypeVar("T")

# Seconds of patience where nothing is configured: for the first content at least FIRST_S (WHOLE_S for a plain answer),
# TIMES as much as was predicted if that is more, but half of what is left of the call at most, so that the next one has
# time too; the last backend gets all there is. IDLE_S: of silence within an answer; not of a ring's, which is silent
# while others go first and while it is brought back, and tells by itself when it hangs (ring/liveness.py).
FIRST_S, WHOLE_S, TIMES, IDLE_S = 60.0, 300.0, 5.0, 60.0
STREAMED = frozenset({"chat", "completion"})
# What an answer of each kind holds at least, where it is JSON: a list of objects under one of these names.
_HOLDS = {
    "chat": ("choices",), "completion": ("choices",), "embedding": ("data",), "rerank": ("results", "data"),
    "image": ("data",), "moderation": ("results",),
}  # fmt: skip


@dataclass(slots=True)
class Answered:
    """A whole answer and the attempt that gave it."""

    tried: Tried
    whole: Whole
    usage: Usage | None
    text: str


class Serving:
    """`serve` once. Also the `relay.Owner` of its stream."""

    def __init__(
        self, call: Call, plan: RoutePlan, parts: Parts, options: Options, attempts: Attempts, report: Report
    ) -> None:
        self.call = call
        self.attempts = attempts
        self.report = report
        self._plan, self._parts, self._options = plan, parts, options
        self._clock = parts.clock
        self._course = Course(plan, parts.breaker, parts.retries, parts.rng)

    async def serve(self) -> Reply:
        """Raises `ExoError`. The caller tells the report when this raises; a stream tells it at its end."""
        if self.call.begun is not None:
            return await self._go_on_from(self.call.begun)
        if self._plan.cascade and self.call.kind in STREAMED:
            return await self._cascade()
        if self.call.stream and self.call.kind in STREAMED:
            live = await self._until_answered(self._open, self._discard_live)
            return await self._streamed(live, Story(self))
        return self._deliver(await self._until_answered(self._ask, self._discard))

    async def _streamed(self, live: Live, story: Story) -> Reply:
        outlet = Outlet()
        frames = relay(self, live, outlet, story)
        await anext(frames)  # from here on, closing it settles everything
        return Reply(headers=self.report.headers(live.tried), frames=frames, outlet=outlet, said=story.said)

    async def _go_on_from(self, begun: Begun) -> Reply:
        """The rest of an answer that another node began."""
        delivered, transcript = delivered_of(begun, self.call)
        if not delivered.head:  # nothing was said yet
            live = await self._until_answered(self._open, self._discard_live)
            return await self._streamed(live, Story(self))
        lost = UpstreamError("the node that began the answer was lost", "reset")
        self.report.continued = True
        if transcript.complete:
            found = None
        elif why := refusal(self.call, delivered, Transcript(self.call)):
            raise UpstreamError(f"{lost.message}, and nobody can go on with it because {why}", "reset")
        else:
            found = await self.go_on(delivered, lost)
        if found is not None:
            return await self._streamed(found, Story(self, (delivered, found)))
        used = transcript.usage or Usage(self.call.prompt_tokens, delivered.tokens)
        self.report.answered(None, used, transcript.usage is None, delivered.text)
        return Reply(headers=self.report.headers(None), frames=one_frame(closing(delivered, transcript, used)))

    # -- trying

    async def _until_answered(
        self,
        ask: Callable[[Step], Coroutine[Any, Any, T]],
        discard: Callable[[T], Awaitable[None]],
        fits: Callable[[Candidate], bool] = lambda candidate: True,
        *,
        hedge: bool = True,
    ) -> T:
        """The first answer that a backend gives. Raises the call's final error."""
        while (step := await self._next(fits)) is not None:
            try:
                if hedge and self._options.hedge and step.hedge_after_s is not None:
                    return await race(ask(step), bound(self._second, ask, step), step.hedge_after_s, discard)
                return await ask(step)
            except UpstreamError as e:
                if not e.fails_over:
                    raise
        raise final_error(self.call, self._plan, self.attempts.errors)

    async def _next(self, fits: Callable[[Candidate], bool] = lambda candidate: True) -> Step | None:
        now = self._clock()
        found = self._course.next(now, self.call.deadline, fits) if now < self.call.deadline else None
        if found is None:
            return None
        step, wait_s = found
        if wait_s:
            await asyncio.sleep(wait_s)
        return step

    def _second(self, ask: Callable[[Step], Coroutine[Any, Any, T]], first: Step) -> Coroutine[Any, Any, T] | None:
        """A hedge, within what may be spent on it and by this call."""
        step = self._course.peek_hedge()
        if step is None:
            return None
        cost, cap = step.cost or 0.0, self.call.wishes.max_cost
        cap = self._options.max_cost if cap is None else cap
        if (cap is not None and cost + (first.cost or 0.0) > cap) or not self._parts.hedges.take(cost):
            return None
        self._course.take(step)
        return ask(step)

    async def _tried(self, step: Step, ask: Callable[[Tried], Awaitable[T]], *, streamed: bool) -> T:
        """One attempt, settled unless it answers."""
        tried: Tried | None = None
        try:
            tried = await self.attempts.begin(step, streamed=streamed)
            return await ask(tried)
        except UpstreamError as e:
            if tried is not None:
                self.attempts.failed(tried, e)
            self._course.failed(step, e, self._clock())
            raise
        except BaseException as e:  # cancelled, the request's own fault, or our bug: no verdict on the backend
            if tried is not None:
                self.attempts.dropped(tried, "bad_request" if isinstance(e, ExoError) else "cancelled")
            raise

    async def _open(self, step: Step, call: Call | None = None, partial: Partial | None = None) -> Live:
        async def ask(tried: Tried) -> Live:
            upstream = await self._upstream(step, tried)
            attempt = self._attempt(step, call or self.call, partial)
            if partial is not None and step.candidate.kind != "ring":  # billed as part of the prompt
                tried.prompt_tokens += partial.completion_tokens
            live = await open_stream(upstream, attempt, tried)
            self.attempts.first_content(tried)
            self.report.first_content()
            return live

        return await self._tried(step, ask, streamed=True)

    async def _ask(self, step: Step, call: Call | None = None) -> Answered:
        async def ask(tried: Tried) -> Answered:
            upstream = await self._upstream(step, tried)
            attempt = self._attempt(step, call or self.call, None)
            try:
                if isinstance(upstream, PassThrough):  # it watches the time itself
                    whole = await upstream.whole(attempt)
                else:
                    with Within(attempt.timeout_s):
                        whole = await upstream.whole(attempt)
            except TimeoutError:
                late = f"{step.candidate.backend}: no answer within {attempt.timeout_s:g} s"
                raise UpstreamError(late, "timeout", code=code_of_lateness(attempt.call)) from None
            data = whole.data
            if lacks := _lacks(self.call, data):
                raise UpstreamError(f"{step.candidate.backend}: its answer has no {lacks}", "malformed")
            tried.last = self._clock()
            usage = None if data is None else whole_usage(data)
            if usage is None:
                tried.characters = length_of(data)
            return Answered(tried, whole, usage, text_of(data))

        return await self._tried(step, ask, streamed=False)

    async def _upstream(self, step: Step, tried: Tried) -> Upstream:
        """Ready to be asked: the time that our own helper process needs to start is not the backend's."""
        upstream = self._parts.sources.upstream(step.candidate)
        ready = getattr(upstream, "ready", None)  # of those behind the sidecar
        if ready is not None:
            left = max(0.001, self.call.deadline - self._clock())
            try:
                with Within(left / 2 if self._course.fresh else left):
                    await ready(self.call)
            except TimeoutError:
                late = f"{step.candidate.backend}: the LiteLLM sidecar did not start in time"
                raise UpstreamError(late, "unavailable", code=code_of_lateness(self.call)) from None
            tried.started = tried.last = self._clock()
        return upstream

    def _attempt(self, step: Step, call: Call, partial: Partial | None) -> Attempt:
        candidate = step.candidate
        left = max(0.001, call.deadline - self._clock())
        own = candidate.timeout_s
        if candidate.kind == "ring" and call.model != candidate.model:
            call = replace(call, model=candidate.model, body={**call.body, "model": candidate.model})
        if not call.stream:
            if own is None and self._course.fresh:
                own = min(max(WHOLE_S, TIMES * step.total_s), left / 2)
            return Attempt(call=call, timeout_s=left if own is None else min(own, left), partial=partial)
        patience = candidate.stream_timeout_s if candidate.stream_timeout_s is not None else own
        first = patience
        if first is None and self._course.fresh:
            first = min(max(FIRST_S, TIMES * step.ttft_s), left / 2)
        idle = IDLE_S if patience is None and candidate.kind != "ring" else patience
        return Attempt(
            call=call,
            timeout_s=left,
            first_s=None if first is None else min(first, left),
            idle_s=None if idle is None else min(idle, left),
            partial=partial,
        )

    async def _discard_live(self, live: Live) -> None:
        """A hedge's second answer."""
        try:
            await live.close()
        finally:
            live.count()
            self.attempts.dropped(live.tried)

    async def _discard(self, answered: Answered) -> None:
        self.attempts.dropped(answered.tried, "cancelled", answered.usage)

    # -- whole answers

    def _deliver(self, answered: Answered) -> Reply:
        tried, whole = answered.tried, answered.whole
        if not tried.ended:
            self.attempts.answered(tried, answered.usage)
        tried.record.cause = ""  # a cascade may fall back on an answer that it had refused
        self.report.answered(tried, tried.record.usage, answered.usage is None, answered.text)
        return Reply(headers=self.report.headers(tried), whole=whole)

    async def _cascade(self) -> Reply:
        """Backends from cheap to dear, until an answer passes the checks; the last one's is not checked."""
        kept: Answered | None = None
        while (step := await self._next()) is not None:
            last = not self._course.fresh
            call, added = _plain(self.call, step.candidate, logprobs=not last)
            try:
                answered = await self._ask(step, call)
            except ExoError as e:
                if isinstance(e, UpstreamError) and e.fails_over:
                    continue
                if kept is None:
                    raise
                break  # what the dear one will not do at all the cheap one has done somehow
            data = answered.whole.data or {}
            why = "" if last else cascade.shortcoming(call, data, self._parts.check)
            if added:
                data = {**data, "choices": [{**choice, "logprobs": None} for choice in data["choices"]]}
                answered.whole = replace(answered.whole, raw=frame(data)[len(b"data: ") :].rstrip(), data=data)
            kept = answered
            if not why:
                break
            self.attempts.dropped(answered.tried, "escalated", answered.usage)
        if kept is None:
            raise final_error(self.call, self._plan, self.attempts.errors)
        reply = self._deliver(kept)
        if self.call.stream:
            exo = self.report.exo(kept.tried, Usage(0, 0), kept.usage is None)
            reply.frames = replay(kept.whole, self.call, exo)
            reply.whole = None
        return reply

    # -- the owner of a stream (relay.Owner)

    def broke(self, live: Live, error: UpstreamError) -> None:
        self.attempts.failed(live.tried, error)
        self._course.failed(live.tried.step, error, self._clock())

    async def go_on(self, delivered: Delivered, error: UpstreamError) -> Live | None:
        mode = self.call.wishes.continuation or self._options.continuation
        if mode == "off":
            raise error
        rest = rest_of(self.call, delivered)
        if rest is not None:
            return await self._until_answered(
                lambda step: self._open(step, rest, delivered.partial(step.candidate)),
                self._discard_live,
                lambda candidate: may_continue(
                    candidate, self.call, mode, delivered.text, delivered.model_id, delivered.only
                ),
                hedge=False,
            )
        return None


async def one_frame(raw: bytes) -> AsyncGenerator[bytes, None]:
    yield raw


def _plain(call: Call, candidate: Candidate, *, logprobs: bool) -> tuple[Call, bool]:
    """`call` for a whole answer, and whether logprobs were added to judge it by."""
    body = {name: value for name, value in call.body.items() if name not in ("stream", "stream_options")}
    add = logprobs and call.kind == "chat" and "logprobs" in candidate.capabilities and not body.get("logprobs")
    if add:
        body["logprobs"] = True
    return replace(call, body=body, stream=False), add


def _lacks(call: Call, data: Any) -> str:
    """What an answer to such a call must hold and `data` does not; "" where it is all there."""
    names = _HOLDS.get(call.kind)
    if names is None or (data is None and call.kind not in STREAMED):
        return ""
    for name in names:
        found = data.get(name) if isinstance(data, dict) else None
        if isinstance(found, list) and all(isinstance(one, dict) for one in found) and (found or name == "results"):
            return _row_lacks(call, found)
    return names[0]


def _row_lacks(call: Call, rows: list[dict[str, Any]]) -> str:
    match call.kind:
        case "chat":
            return "" if all(_is_message(row.get("message")) for row in rows) else "message in each of its choices"
        case "completion":
            return "" if all("text" in row for row in rows) else "text in each of its choices"
        case "embedding":
            if not all(row.get("embedding") and isinstance(row["embedding"], (list, str)) for row in rows):
                return "embedding in each row of its data"
            wanted = _texts(call.body.get("input"))
            return "" if len(rows) >= wanted else f"vectors for all {wanted} inputs, only {len(rows)}"
    return ""


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    calls = value.get("tool_calls") or []
    return isinstance(calls, list) and all(isinstance(one, dict) for one in calls)


def _texts(given: Any) -> int:
    """How many texts an embedding's `input` is: one text, the token ids of one, or a list of either."""
    return len(given) if isinstance(given, list) and given and not isinstance(given[0], int) else 1
