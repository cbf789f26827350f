"""routing/adapter/course.py: which backend is tried next."""

from __future__ import annotations

import random
from typing import Any

import pytest

from exo_node.routing.adapter.course import Course
from exo_node.routing.call import INVALID_TOOL_CALL, WORKER_LOST
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.retry_budget import RetryBudget
from exo_node.routing.plan import Candidate, RoutePlan, Step
from tests.unit.routing.adapter_parts import candidate, failure


def course(*candidates: Candidate, budget: RetryBudget | None = None, breaker: Breaker | None = None) -> Course:
    steps = tuple(Step(candidate=c, ttft_s=0.1, total_s=1.0, cost=0.0, reason="") for c in candidates)
    plan = RoutePlan(strategy="latency", steps=steps)
    return Course(plan, breaker or Breaker(), budget or RetryBudget(), random.Random(1))


def walk(one: Course, cause: Any, now: float = 0.0, **fields: Any) -> list[str]:
    """The backends that are tried when all fail alike."""
    tried: list[str] = []
    while (found := one.next(now, 1000.0)) is not None and len(tried) < 20:
        tried.append(found[0].candidate.backend)
        one.failed(found[0], failure(cause, **fields), now)
    return tried


@pytest.mark.parametrize(
    ("retries", "cause", "tried"),
    [
        (None, "server", "abab"),
        (None, "auth", "ab"),
        (None, "timeout", "ab"),
        (0, "server", "ab"),
        (2, "reset", "ababab"),
        (2, "context", "ab"),
    ],
)
def test_everyone_once_then_again_within_num_retries(retries: int | None, cause: str, tried: str) -> None:
    """Backends of their own groups: each is tried, and what failed in passing is tried again."""
    one = course(candidate("a", num_retries=retries), candidate("b", num_retries=retries))
    assert sorted(walk(one, cause)) == sorted(tried)


def test_our_own_failures() -> None:
    """A worker of ours that died is started again, so the backend is asked again; bad tool calls were asked for twice
    already, so the next backend has its turn."""
    assert walk(course(candidate("a")), "unavailable", code=WORKER_LOST) == ["a", "a"]
    assert walk(course(candidate("a"), candidate("b")), "malformed", code=INVALID_TOOL_CALL) == ["a", "b"]


def test_num_retries_caps_a_group() -> None:
    """`num_retries: 1` of a router group is two attempts at its deployments, however many there are."""
    members = [candidate(name, group="g", num_retries=1) for name in "abc"]
    assert walk(course(*members, candidate("z")), "auth") == ["a", "b", "z"]


def test_who_was_ejected_meanwhile_comes_last() -> None:
    """The plan was made before: a call that has lost its time at one dead backend does not go to the next one."""
    breaker = Breaker(allowed_fails=1)
    one = course(*(candidate(name) for name in "abc"), breaker=breaker)
    assert one.next(0.0, 1000.0) is not None
    breaker.failed(candidate("b"), failure("reset"), 1.0)
    found = [one.next(1.0, 1000.0), one.next(1.0, 1000.0)]
    assert [step.candidate.backend for step, _ in filter(None, found)] == ["c", "b"]


def test_an_empty_retry_budget_ends_repeats_not_failover() -> None:
    """First tries at other backends need no budget."""
    empty = RetryBudget(percent=0.0, min_per_s=0.0)
    assert walk(course(candidate("a"), candidate("b"), budget=empty), "server") == ["a", "b"]


def test_retry_after_and_breaker_are_waited_for_or_not_at_all() -> None:
    """A short Retry-After is waited out; a long one, an open breaker or the deadline end the course."""

    def after(wait: float, now: float = 0.0, deadline: float = 1000.0, breaker: Breaker | None = None) -> float | None:
        one = course(candidate("a"), breaker=breaker)
        found = one.next(0.0, 1000.0)
        assert found is not None
        error = failure("rate_limited", retry_after=wait)
        one.failed(found[0], error, 0.0)
        if breaker is not None:
            breaker.failed(found[0].candidate, error, 0.0)
        again = one.next(now, deadline)
        return None if again is None else again[1]

    assert after(2.0) == 2.0
    assert after(2.0, now=1.5) == 0.5
    assert after(60.0) is None
    assert after(2.0, deadline=1.0) is None
    assert after(0.0, breaker=Breaker()) is not None
    slow = Breaker(cooldown_s=30.0)
    slow.failed(candidate("a"), failure("auth"), 0.0)
    assert after(0.0, breaker=slow) is None


def test_only_those_that_fit() -> None:
    """A continuation asks some of them; `fresh` says whether an untried one is left."""
    one = course(candidate("a"), candidate("b"))
    found = one.next(0.0, 10.0, lambda c: c.backend == "b")
    assert found is not None
    assert found[0].candidate.backend == "b"
    assert one.fresh
    assert one.next(0.0, 10.0, lambda c: False) is None


def test_a_hedge_stays_in_the_first_tier() -> None:
    """Fallbacks are for failure only."""
    assert course(candidate("f", tier=1)).peek_hedge() is None
    one = course(candidate("a"), candidate("b"))
    step = one.peek_hedge()
    assert step is not None
    one.take(step)
    following = one.next(0.0, 10.0)
    assert following is not None
    assert following[0].candidate.backend == "b"
