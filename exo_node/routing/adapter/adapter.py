"""`LiteLLMAdapter`: the local ring and every provider behind one decision (ARCHITECTURE, FEATURES).

`serve` asks the registry for candidates, the policy for a plan, and tries its steps; `explain` says what it would do.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from exo_node.routing.adapter.attempts import Attempts
from exo_node.routing.adapter.failure import nobody
from exo_node.routing.adapter.parts import Options, Parts
from exo_node.routing.adapter.report import Report
from exo_node.routing.adapter.serving import Serving
from exo_node.routing.call import Call, CallRecord, Reply
from exo_node.routing.plan import Ask, Candidate, RoutePlan, Step
from exo_node.routing.policy.heuristics import last_user_text
from exo_node.routing.policy.options import window_of


class LiteLLMAdapter:
    """Serves calls. `options` may be replaced at any time; calls that run keep theirs."""

    def __init__(self, parts: Parts, options: Options | None = None) -> None:
        self._parts = parts
        self.options = options or Options()
        self._in_flight = 0
        self._served = 0
        self._failed = 0
        self._continued = 0

    async def serve(self, call: Call) -> Reply:
        """The answer: whole, or a stream at its first content.

        Raises `ExoError`, whose headers are `failure.headers_of(error)`.
        """
        options, parts = self.options, self._parts
        began = parts.clock()
        attempts = Attempts(call, parts.profile, parts.breaker, parts.gate, parts.clock)
        report = Report(call, attempts, (self._ended, *parts.sinks), parts.clock, began)
        self._in_flight += 1
        self._served += 1
        try:
            candidates = await parts.sources.candidates(call)
            plan = self._choose(candidates, call, options)
            report.strategy, report.reason = plan.strategy, plan.reason
            report.passed_over = [c for c in candidates if c.rejected and not c.tier and not c.equivalent]
            if not plan.steps:
                raise nobody(call, plan, candidates)
            parts.retries.deposit(began)
            if options.hedge:
                parts.hedges.request(plan.steps[0].cost or 0.0)
            return await Serving(call, plan, parts, options, attempts, report).serve()
        except asyncio.CancelledError:
            report.gone(None, "")
            raise
        except Exception as e:
            report.failed(e, "")
            raise

    async def explain(self, call: Call) -> dict[str, Any]:
        """What `serve` would do now, and why. Nothing is sent."""
        plan = self._choose(await self._parts.sources.candidates(call), call, self.options)
        return {
            "model": call.model,
            "strategy": plan.strategy,
            "reason": plan.reason,
            "cascade": plan.cascade,
            "explored": plan.explored,
            "prompt_tokens": call.prompt_tokens,
            "steps": [_step(step) for step in plan.steps],
            "rejected": dict(plan.rejected),
        }

    @property
    def in_flight(self) -> int:
        """Calls being served, streams until their end."""
        return self._in_flight

    def stats(self) -> dict[str, int]:
        return {
            "requests": self._served,
            "failed": self._failed,
            "continued": self._continued,
            "in_flight": self._in_flight,
        }

    def _choose(self, candidates: list[Candidate], call: Call, options: Options) -> RoutePlan:
        parts = self._parts
        ask = ask_of(call, options)
        plan = parts.choose(candidates, ask, parts.profile, parts.breaker, parts.clock(), parts.rng)
        if not plan.steps and (one := _to_ask_anyway(candidates, ask)) is not None:
            step = Step(candidate=one, ttft_s=0.0, total_s=0.0, cost=None, reason="it judges for itself")
            plan = replace(plan, steps=(step,), cascade=False)
        return plan

    def _ended(self, record: CallRecord) -> None:
        self._in_flight -= 1
        self._failed += record.status >= 400
        self._continued += record.continued


def ask_of(call: Call, options: Options) -> Ask:
    """What the policy is told of `call`."""
    wishes = call.wishes
    return Ask(
        kind=call.kind,
        model=call.model,
        prompt_tokens=call.prompt_tokens,
        max_tokens=call.max_tokens,
        longest=call.longest,
        answers=call.answers,
        stream=call.stream,
        needs=call.needs,
        strategy=wishes.strategy or options.strategy,
        max_cost=wishes.max_cost if wishes.max_cost is not None else options.max_cost,
        provider=wishes.provider,
        hedge=options.hedge,
        wished=wishes.strategy is not None,
        text=last_user_text(call.body),
    )


def _to_ask_anyway(candidates: list[Candidate], ask: Ask) -> Candidate | None:
    """When nobody fits: a backend ruled out by our estimate of the prompt alone, which may be wrong; or a ring that
    cannot do what is asked, since it refuses at once and names the field."""
    for candidate in candidates:
        if candidate.rejected or not candidate.room or ask.provider not in (None, candidate.provider):
            continue
        too_long = candidate.context is not None and sum(window_of(ask)) >= candidate.context
        missing = ask.needs - candidate.capabilities
        if candidate.kind == "ring":
            if too_long or missing:
                return candidate
        elif too_long and not missing and ask.max_cost is None:
            return candidate
    return None


def _step(step: Step) -> dict[str, Any]:
    candidate = step.candidate
    return {
        "backend": candidate.backend,
        "kind": candidate.kind,
        "provider": candidate.provider,
        "model": candidate.model,
        "tier": candidate.tier,
        "equivalent": candidate.equivalent,
        "predicted_ttft_ms": round(step.ttft_s * 1000, 1),
        "predicted_total_ms": round(step.total_s * 1000, 1),
        "predicted_cost": step.cost,
        "reason": step.reason,
    }
