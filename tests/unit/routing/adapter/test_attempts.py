"""routing/adapter/attempts.py: every attempt is announced and settled once, with what it may have cost."""

from __future__ import annotations

import time
from typing import Any

import pytest

from exo_node.routing.adapter.attempts import Attempts
from exo_node.routing.adapter.ports import OpenGate
from exo_node.routing.call import WORKER_LOST
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.plan import Step
from exo_node.types import Usage
from tests.unit.routing.adapter_parts import call, candidate, failure


def made() -> Attempts:
    return Attempts(call(), Profile(), Breaker(allowed_fails=1), OpenGate(), time.monotonic)


STEP = Step(candidate=candidate("a"), ttft_s=0.1, total_s=1.0, cost=1e-5, reason="")


@pytest.mark.parametrize(
    ("cause", "opens", "billed"),
    [
        ("server", True, False),
        ("refused", True, False),
        ("timeout", True, True),
        ("eof", True, True),
        ("bad_request", False, False),
        ("context", False, False),
    ],
)
async def test_failures_and_what_they_mean(cause: str, opens: bool, billed: bool) -> None:
    """The request's own fault says nothing of the backend; what was accepted may be billed, as an estimate."""
    attempts = made()
    tried = await attempts.begin(STEP)
    assert attempts.profile.in_flight("a") == 1
    attempts.failed(tried, failure(cause))
    attempts.dropped(tried)
    assert attempts.profile.in_flight("a") == 0
    assert (attempts.breaker.state("a", time.monotonic())[0] == "open") == opens
    assert (attempts.cost > 0) == attempts.cost_estimated == billed
    assert attempts.header() == f"a:{cause}"


@pytest.mark.parametrize("code", ["unsupported_parameter", "unsupported_by_backend"])
async def test_an_unsupported_parameter_says_nothing_of_the_backend(code: str) -> None:
    """A ring without tools is a healthy ring, a provider's model without them too."""
    attempts = made()
    tried = await attempts.begin(STEP)
    attempts.failed(tried, failure("unavailable", code=code))
    assert attempts.breaker.state("a", time.monotonic())[0] == "closed"


async def test_an_answer_that_outlasts_the_call_says_nothing_of_the_backend() -> None:
    """It flowed to the end of the call's time; who had said nothing by then is to blame."""
    attempts = made()
    for begun, code, state in ((True, "deadline_exceeded", "closed"), (True, "", "closed"), (False, "", "open")):
        if not code:
            attempts.call = call(deadline_s=0.0)
        tried = await attempts.begin(STEP)
        if begun:
            attempts.first_content(tried)
        attempts.failed(tried, failure("timeout", code=code or None))
        assert attempts.breaker.state("a", time.monotonic())[0] == state


async def test_a_break_late_in_an_answer_is_no_slow_first_token() -> None:
    """After minutes of streaming a reset costs what a failure costs, not those minutes."""
    now = 100.0
    attempts = Attempts(call(), Profile(), Breaker(), OpenGate(), lambda: now)
    for _ in range(3):
        tried = await attempts.begin(STEP)
        now += 0.3
        attempts.first_content(tried)
        attempts.answered(tried, Usage(10, 5))
        now += 1.0
    tried = await attempts.begin(STEP)
    now += 0.3
    attempts.first_content(tried)
    now += 300.0
    attempts.failed(tried, failure("reset"))
    assert attempts.profile.ttft(STEP.candidate, 10, now) < 3.0


async def test_a_route_that_a_backend_has_not_says_nothing_of_its_chats() -> None:
    """A 404 for a chat is a model that is not there; for another kind of call it may be the whole route."""
    kinds: list[tuple[Any, str]] = [("completion", "closed"), ("moderation", "closed"), ("chat", "open")]
    for kind, state in kinds:
        attempts = Attempts(call(kind=kind), Profile(), Breaker(), OpenGate(), time.monotonic)
        attempts.failed(await attempts.begin(STEP), failure("not_found"))
        assert attempts.breaker.state("a", time.monotonic())[0] == state


async def test_what_came_before_an_error_event_may_be_billed() -> None:
    """An overloaded provider's error in the middle of its answer does not take back what it had made."""
    attempts = made()
    tried = await attempts.begin(STEP)
    attempts.first_content(tried)
    tried.characters = 40
    attempts.failed(tried, failure("server"))
    assert attempts.records[0].usage == Usage(10, 10)
    assert attempts.cost == pytest.approx(30e-6)
    assert attempts.cost_estimated


async def test_a_lost_worker_says_nothing_of_the_backend() -> None:
    """Our own helper's death, however often, ejects no provider; what it had asked may be billed all the same."""
    attempts = made()
    for _ in range(20):
        attempts.failed(await attempts.begin(STEP), failure("reset", code=WORKER_LOST))
    assert attempts.breaker.state("a", time.monotonic())[0] == "closed"
    assert attempts.cost > 0


async def test_an_answer_teaches_the_profile_and_costs_what_is_reported() -> None:
    """Reported usage is exact; without a report it is estimated from the text."""
    attempts = made()
    tried = await attempts.begin(STEP)
    attempts.first_content(tried)
    assert attempts.header(tried) == "a:ok"
    attempts.answered(tried, Usage(10, 5))
    assert attempts.cost == pytest.approx(20e-6)
    assert not attempts.cost_estimated
    again = await attempts.begin(STEP)
    again.characters = 40
    attempts.answered(again, None)
    assert attempts.records[1].usage == Usage(10, 10)
    assert attempts.cost_estimated


@pytest.mark.parametrize(("kind", "tokens"), [("chat", 266), ("embedding", 10), ("rerank", 10)])
async def test_room_is_kept_for_answers_that_have_tokens(kind: Any, tokens: int) -> None:
    """Vectors have none: what is kept for them would refuse others."""
    attempts = made()
    attempts.call = call(kind=kind)
    assert (await attempts.begin(STEP)).reserved == tokens


@pytest.mark.parametrize("stream", [True, False])
async def test_what_an_answer_used_counts_in_its_minute(stream: bool) -> None:
    """Prompt and answer, streamed or whole: usage-based routing asks who used the least."""
    attempts = made()
    tried = await attempts.begin(STEP)
    if stream:
        attempts.first_content(tried)
    attempts.answered(tried, Usage(10, 1))
    assert attempts.profile.tokens_this_minute("a", time.monotonic()) == 11
