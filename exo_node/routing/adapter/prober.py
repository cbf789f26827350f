"""One-token probes while the node is idle, so that estimates are fresh and broken backends are found to be well again.

`off`: none. `local` (the default) costs nothing: rings that are loaded already, and local servers without a key whose
price is known to be 0 (Ollama, vLLM, ...). `all`: also deployments and peers' deployments with a known price, up to
`spend_cap` USD an hour. A probe is an attempt like any other: profile, breaker, limits and budgets hear of it.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from exo_node.errors import ExoError
from exo_node.routing.adapter.attempts import Attempts, Tried
from exo_node.routing.adapter.parts import Parts
from exo_node.routing.adapter.relay import LINGER_S, Live, broke_off, open_stream
from exo_node.routing.adapter.report import Report
from exo_node.routing.call import Attempt, Call, Caller, UpstreamError
from exo_node.routing.plan import Candidate, Step

IDLE_S = 10.0  # without a request before the first probe
TICK_S = 2.0  # between two looks at the state of the node
GAP_S = (3.0, 600.0)  # between two probes; doubles while nothing changes
JITTER = (0.75, 1.25)  # of the gap, so that many nodes do not ask a provider in step
KNOWN_ENOUGH = 0.4  # of `profile.known`: three samples are for about 3 minutes, twenty for 11
TIMEOUT_S = 30.0
PROMPT_TOKENS = 8  # one short word in a chat template
SURPRISE = 2.0  # a time to the first token that is off by more than this factor is news
ASIDE_S = 3600.0  # a backend that cannot answer a probe (it wants other parameters) is left alone for so long
HOUR_S = 3600.0
KEY_ID = "probe"  # the caller in the spend log
_CANNOT = frozenset({"bad_request", "context", "content_filter"})

Allowed = Literal["off", "local", "all"]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """`cause` "" : it answered. `sent` False: there was no room for it in the limits, nothing was asked."""

    cause: str = ""
    ttft_s: float | None = None
    sent: bool = True


class Prober:
    """Call `requested` first thing for every real request; await `run` in a task that its owner cancels.

    `candidates`: every chat backend there is. `loaded`: whether a ring's model is in memory now. `keyless`: whether a
    deployment needs no key. `idle`: whether nothing is in flight on this node. All four must be quick.
    """

    def __init__(
        self,
        parts: Parts,
        allowed: Allowed,
        *,
        candidates: Callable[[], Sequence[Candidate]],
        loaded: Callable[[Candidate], bool],
        keyless: Callable[[Candidate], bool],
        idle: Callable[[], bool],
        spend_cap: float = 0.01,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._parts, self._allowed = parts, allowed
        self._candidates, self._loaded, self._keyless, self._idle = candidates, loaded, keyless, idle
        self._spend_cap, self._sleep = spend_cap, sleep
        self._running: asyncio.Task[_Outcome] | None = None
        self._busy = parts.clock()  # when the node was last seen at work
        self._gap = GAP_S[0]
        self._next = -math.inf
        self._names: frozenset[str] = frozenset()
        self._asked: dict[str, float] = {}
        self._outcomes: dict[str, str] = {}
        self._aside: dict[str, float] = {}
        self._spent: deque[tuple[float, float]] = deque()

    def requested(self) -> None:
        """A real request came: the probe that runs ends at once, and the idle time begins anew."""
        self._busy = self._parts.clock()
        self._gap, self._next = GAP_S[0], -math.inf
        if self._running is not None:
            self._running.cancel()

    async def run(self) -> None:
        """Probe until cancelled; returns at once where probes are off."""
        while self._allowed != "off":
            await self._sleep(TICK_S)
            await self.tick()

    async def tick(self) -> Candidate | None:
        """One look at the node: at most one probe. Gives who was asked."""
        now = self._parts.clock()
        if not self._idle():
            self._busy, self._gap, self._next = now, GAP_S[0], -math.inf
            return None
        if self._allowed == "off" or self._running is not None or now - self._busy < IDLE_S:
            return None
        listed = {one.backend: one for one in self._candidates()}
        if listed.keys() != self._names:
            self._names = frozenset(listed)
            self._gap, self._next = GAP_S[0], -math.inf
            for memory in (self._asked, self._outcomes, self._aside):
                for gone in memory.keys() - self._names:
                    del memory[gone]
        if now < self._next:
            return None
        wanting = [one for one in listed.values() if self._may(one, now) and self._wants(one, now)]
        chosen = min(wanting, key=lambda one: self._rank(one, now), default=None)
        news = False
        if chosen is not None:
            self._asked[chosen.backend] = now
            predicted = self._parts.profile.ttft(chosen, PROMPT_TOKENS, now)
            outcome = await self._alone(chosen, predicted)
            if outcome is None:
                return chosen  # a real request came: `requested` has set the time
            news = self._note(chosen, outcome, predicted)
        self._gap = GAP_S[0] if news else min(GAP_S[1], self._gap * 2)
        self._next = self._parts.clock() + self._gap * self._parts.rng.uniform(*JITTER)
        return chosen

    # -- who

    def _may(self, one: Candidate, now: float) -> bool:
        """Whether asking it is allowed."""
        if one.rejected or not one.room or now < self._aside.get(one.backend, -math.inf):
            return False
        if one.kind == "ring":
            return self._loaded(one)
        if one.price is None:
            return False  # no cap could be kept
        cost = _cost(one)
        if self._allowed == "local":
            return one.kind == "deployment" and cost == 0 and self._keyless(one)
        while self._spent and now - self._spent[0][0] >= HOUR_S:
            self._spent.popleft()
        return cost == 0 or sum(usd for _, usd in self._spent) + cost <= self._spend_cap

    def _wants(self, one: Candidate, now: float) -> bool:
        """Whether there is anything to learn. `profile.due` does not decide: it shares out real requests."""
        state, _ = self._parts.breaker.state(one.backend, now)
        if state == "open" or self._parts.profile.in_flight(one.backend):
            return False
        return state == "half_open" or self._parts.profile.known(one, now) < KNOWN_ENOUGH

    def _rank(self, one: Candidate, now: float) -> tuple[float, float]:
        """Who has waited longest; of those never asked, the least known."""
        known = self._parts.profile.known(one, now)
        return self._asked.get(one.backend, -math.inf), known

    # -- asking

    async def _alone(self, candidate: Candidate, predicted: float) -> _Outcome | None:
        """The probe in a task of its own, which `requested` may cancel; None where it did."""
        task = self._running = asyncio.create_task(self._ask(candidate, predicted))
        try:
            await asyncio.wait({task})
        finally:
            self._running = None
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        return None if task.cancelled() else task.result()

    async def _ask(self, candidate: Candidate, predicted: float) -> _Outcome:
        parts = self._parts
        began = parts.clock()
        call = _call(candidate, began)
        attempts = Attempts(call, parts.profile, parts.breaker, parts.gate, parts.clock)
        report = Report(call, attempts, parts.sinks, parts.clock, began)
        report.strategy, report.reason = KEY_ID, "measured while idle"
        step = Step(candidate=candidate, ttft_s=predicted, total_s=predicted, cost=_cost(candidate), reason=KEY_ID)
        try:
            tried = await attempts.begin(step)
        except UpstreamError:
            return _Outcome("rate_limited", sent=False)
        try:
            text = await self._listen(candidate, call, tried, attempts, report)
        except UpstreamError as e:
            attempts.failed(tried, e)
            if attempts.cost:
                report.failed(e, "")
            return _Outcome("bad_request" if e.code == "unsupported_parameter" else e.cause)
        except ExoError as e:
            attempts.dropped(tried, "bad_request")
            if attempts.cost:
                report.failed(e, "")
            return _Outcome("bad_request")
        except BaseException:  # a real request came, the node ends, or our bug
            attempts.dropped(tried)
            if attempts.cost:
                report.gone(tried, "")
            raise
        else:
            if attempts.cost:
                report.answered(tried, tried.record.usage, tried.record.usage_estimated, text)
            return _Outcome(ttft_s=tried.record.ttft_s)
        finally:
            if attempts.cost:
                self._spent.append((began, attempts.cost))

    async def _listen(self, candidate: Candidate, call: Call, tried: Tried, attempts: Attempts, report: Report) -> str:
        patience = TIMEOUT_S if candidate.timeout_s is None else min(TIMEOUT_S, candidate.timeout_s)
        attempt = Attempt(call=call, timeout_s=patience, first_s=candidate.stream_timeout_s)
        live = await open_stream(self._parts.sources.upstream(candidate), attempt, tried)
        try:
            attempts.first_content(tried)
            report.first_content()
            await _to_the_end(live)
        finally:
            live.count()
            await live.close()
        attempts.answered(tried, live.transcript.usage)
        return live.transcript.text

    def _note(self, one: Candidate, outcome: _Outcome, predicted: float) -> bool:
        """Remember how it went; whether it is news."""
        if outcome.cause in _CANNOT:
            self._aside[one.backend] = self._parts.clock() + ASIDE_S
        before, self._outcomes[one.backend] = self._outcomes.get(one.backend), outcome.cause
        if not outcome.sent:
            return False
        took = outcome.ttft_s
        surprising = took is not None and not predicted / SURPRISE <= took <= predicted * SURPRISE
        return before != outcome.cause or surprising


async def _to_the_end(live: Live) -> None:
    """Read what follows the first content. Raises `UpstreamError` where the answer breaks off."""
    lingers = False
    while True:
        if live.transcript.complete and not lingers:
            lingers = True  # for the usage report, which comes at once or never
            live.watch.restart(asyncio.get_running_loop().time() + min(LINGER_S, live.watch.left), None)
        try:
            if await live.next() is None:
                break
        except UpstreamError:
            if not lingers:
                raise
            break
    if not live.transcript.complete:
        raise broke_off(live.tried)


def _call(candidate: Candidate, now: float) -> Call:
    body = {
        "model": candidate.model,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 1,
        "stream": True,
    }
    return Call(
        id=f"probe-{uuid.uuid4().hex}",
        kind="chat",
        model=candidate.model,
        body=body,
        stream=True,
        deadline=now + TIMEOUT_S,
        prompt_tokens=PROMPT_TOKENS,
        max_tokens=1,
        caller=Caller(key_id=KEY_ID),
        priority="low",
    )


def _cost(candidate: Candidate) -> float:
    """Predicted USD; a ring without a price costs nothing."""
    return 0.0 if candidate.price is None else candidate.price.cost(PROMPT_TOKENS, 1)
