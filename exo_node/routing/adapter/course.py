"""Which backend is tried next: the one owner of retries. Pure, apart from taking from the retry budget.

Every backend of the plan gets one try, in order; that needs no budget, since it is a load the backend might have had
anyway and the breaker keeps broken ones out. After them a backend that failed in passing is asked again, as far as
`num_retries` and the node's retry budget go. Where a group says `num_retries`, that caps its attempts altogether.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from exo_node.routing.adapter.ports import Breaker, RetryBudget
from exo_node.routing.call import INVALID_TOOL_CALL, WORKER_LOST, UpstreamError
from exo_node.routing.plan import Candidate, RoutePlan, Step

# Worth the same backend once more: it may have been a moment's trouble. A timeout has cost its time already.
_REPEATABLE = frozenset({"refused", "rate_limited", "server", "reset", "eof", "malformed"})
REPEATS = 1  # of one backend, where nothing says num_retries
BACKOFF_S, MAX_BACKOFF_S = 0.25, 8.0  # full jitter, doubling (AWS, "Exponential Backoff And Jitter")
MAX_WAIT_S = 5.0  # a client is rather told to come back than held for longer


class Course:
    """The order of attempts of one call.

    `next` gives the step to try and the seconds to wait before it, or None when nothing is left.
    """

    def __init__(self, plan: RoutePlan, breaker: Breaker, budget: RetryBudget, rng: random.Random) -> None:
        self._fresh = list(plan.steps)
        self._breaker, self._budget, self._rng = breaker, budget, rng
        self._failed: dict[str, tuple[Step, UpstreamError, float]] = {}  # by backend, with the time
        self._tries: dict[str, int] = {}  # attempts by backend
        self._group_tries: dict[str, int] = {}

    def next(
        self, now: float, deadline: float, fits: Callable[[Candidate], bool] = lambda candidate: True
    ) -> tuple[Step, float] | None:
        """Among the steps that `fits`; what is returned counts as tried. Who was ejected since the plan was made, or
        has its trial by another call just now, comes after the others."""
        ejected: Step | None = None
        for step in self._fresh:
            if fits(step.candidate) and self._allowed(step.candidate):
                if not self._tries or self._breaker.state(step.candidate.backend, now)[0] != "open":
                    break
                ejected = ejected or step
        else:
            if ejected is None:
                return self._repeat(now, deadline, fits)
            step = ejected
        self._fresh.remove(step)
        return self._take(step), 0.0

    def peek_hedge(self) -> Step | None:
        """A second backend of the first tier to ask beside the first, if there is one; `take` it to ask it."""
        for step in self._fresh:
            if step.candidate.tier == 0 and self._allowed(step.candidate):
                return step
        return None

    def take(self, step: Step) -> None:
        self._fresh.remove(step)
        self._take(step)

    def failed(self, step: Step, error: UpstreamError, now: float) -> None:
        self._failed[step.candidate.backend] = (step, error, now)

    @property
    def fresh(self) -> bool:
        """Whether backends are left that have not been tried."""
        return any([self._allowed(step.candidate) for step in self._fresh])

    def _take(self, step: Step) -> Step:
        backend, group = step.candidate.backend, _group(step.candidate)
        self._tries[backend] = self._tries.get(backend, 0) + 1
        self._group_tries[group] = self._group_tries.get(group, 0) + 1
        return step

    def _allowed(self, candidate: Candidate) -> bool:
        cap = candidate.num_retries
        return cap is None or self._group_tries.get(_group(candidate), 0) <= cap

    def _repeat(self, now: float, deadline: float, fits: Callable[[Candidate], bool]) -> tuple[Step, float] | None:
        ready: list[tuple[float, int, Step]] = []
        for i, (step, error, when) in enumerate(self._failed.values()):
            candidate = step.candidate
            repeats = self._tries[candidate.backend] - 1
            cap = REPEATS if candidate.num_retries is None else candidate.num_retries
            if not _repeatable(error) or repeats >= cap or not self._allowed(candidate) or not fits(candidate):
                continue
            wait = self._wait(candidate, error, when, repeats, now)
            if wait <= max(MAX_WAIT_S, candidate.retry_after_s or 0.0) and now + wait < deadline:
                ready.append((wait, i, step))
        if not ready or not self._budget.withdraw(now):
            return None
        wait, _, step = min(ready, key=lambda one: one[:2])
        return self._take(step), wait

    def _wait(self, candidate: Candidate, error: UpstreamError, when: float, repeats: int, now: float) -> float:
        backoff = self._rng.uniform(0, min(MAX_BACKOFF_S, BACKOFF_S * 2**repeats))
        asked = max(0.0, when + max(error.retry_after or 0.0, candidate.retry_after_s or 0.0) - now)
        state, left = self._breaker.state(candidate.backend, now)
        return max(backoff, asked, left if state == "open" else 0.0)


def _repeatable(error: UpstreamError) -> bool:
    if error.code == INVALID_TOOL_CALL:  # the model was asked twice already
        return False
    return error.cause in _REPEATABLE or error.code == WORKER_LOST


def _group(candidate: Candidate) -> str:
    return candidate.group or candidate.backend
