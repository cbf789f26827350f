"""The circuit breaker."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.routing.call import ErrorClass, UpstreamError
from exo_node.routing.health.breaker import REMEMBERED, Breaker
from exo_node.routing.plan import Candidate

A = Candidate(backend="a", kind="deployment", provider="openai", model="gpt-4o")


def error(cause: ErrorClass = "server", retry_after: float | None = None) -> UpstreamError:
    return UpstreamError("failed", cause, retry_after=retry_after)


def fail(breaker: Breaker, times: int, now: float, candidate: Candidate = A) -> None:
    for _ in range(times):
        breaker.failed(candidate, error(), now)


def test_five_failures_in_a_row_open_it() -> None:
    """Four do not, and a success between starts the count again."""
    breaker = Breaker(min_volume=1000)
    fail(breaker, 4, 0.0)
    assert breaker.state("a", 0.0) == ("closed", 0.0)
    breaker.succeeded(A, 0.0)
    fail(breaker, 4, 0.0)
    assert breaker.state("a", 0.0)[0] == "closed"
    fail(breaker, 1, 0.0)
    assert breaker.state("a", 0.0) == ("open", 5.0)
    assert breaker.why("a") == "server"


def test_a_deployment_says_how_many_and_how_long() -> None:
    """`allowed_fails` and `cooldown_s` of the candidate win over the defaults."""
    own = replace(A, allowed_fails=2, cooldown_s=60.0)
    breaker = Breaker()
    fail(breaker, 2, 0.0, own)
    assert breaker.state("a", 0.0) == ("open", 60.0)


def test_half_failed_of_enough_requests_opens_it() -> None:
    """More than half of ten requests in a window, or of as many as `allowed_fails` where that is more."""
    breaker = Breaker(allowed_fails=10)
    patient = replace(A, backend="b", allowed_fails=100)
    for candidate in (A, patient):
        for i in range(4):
            breaker.succeeded(candidate, i * 0.1)
            fail(breaker, 1, i * 0.1, candidate)
        assert breaker.state(candidate.backend, 1.0)[0] == "closed"
        fail(breaker, 2, 1.0, candidate)
    assert breaker.state("a", 1.0)[0] == "open"
    fail(breaker, 89, 1.0, patient)
    assert breaker.state("b", 1.0)[0] == "closed"
    fail(breaker, 1, 1.0, patient)
    assert breaker.state("b", 1.0)[0] == "open"


def test_a_trial_that_answers_is_over() -> None:
    """With its first content, and not only when a long answer ends; what breaks then opens it again at once, longer."""
    breaker = Breaker()
    fail(breaker, 5, 0.0)
    breaker.answering(A, 1.0)
    assert breaker.state("a", 1.0) == ("open", 4.0), "whoever was asked before the end of the ejection proves nothing"
    assert breaker.begin(A, 5.0)
    breaker.answering(A, 5.5)
    assert breaker.state("a", 5.5) == ("closed", 0.0)
    fail(breaker, 1, 6.0)
    assert breaker.state("a", 6.0) == ("open", 10.0)


def test_half_open_is_exactly_one_request() -> None:
    """After the ejection one caller gets the trial; the others see it open until it is over."""
    breaker = Breaker()
    fail(breaker, 5, 0.0)
    assert breaker.state("a", 5.0) == ("half_open", 0.0)
    assert breaker.begin(A, 5.0)
    assert breaker.state("a", 5.1)[0] == "open"
    assert not breaker.begin(A, 5.1)
    breaker.succeeded(A, 6.0)
    assert breaker.state("a", 6.0) == ("closed", 0.0)


def test_a_cancelled_trial_is_free_again() -> None:
    """A client that went away says nothing of the backend."""
    breaker = Breaker()
    fail(breaker, 5, 0.0)
    breaker.begin(A, 5.0)
    breaker.released(A, 5.0)
    assert breaker.state("a", 6.0)[0] == "half_open"


def test_only_the_trial_itself_frees_its_place() -> None:
    """A client of before the ejection that goes away meanwhile does not let a second request in."""
    breaker = Breaker()
    breaker.begin(A, -1.0)
    fail(breaker, 5, 0.0)
    assert breaker.begin(A, 5.0)
    breaker.released(A, -1.0)
    assert breaker.state("a", 6.0)[0] == "open"
    breaker.released(A, 5.0)
    assert breaker.state("a", 6.0)[0] == "half_open"


def test_a_trial_that_nobody_reports_on_is_given_up() -> None:
    """A lost trial does not keep a backend out for ever."""
    breaker = Breaker()
    fail(breaker, 5, 0.0)
    breaker.begin(A, 5.0)
    assert breaker.state("a", 66.0)[0] == "half_open"


def test_ejections_grow_and_stay_under_30_s() -> None:
    """Cooldown x count up to 3: 5, 10, 15, 15, 15 s."""
    breaker = Breaker()
    fail(breaker, 5, 0.0)
    now, lengths = 0.0, []
    for _ in range(5):
        left = breaker.state("a", now)[1]
        lengths.append(left)
        now += left
        assert breaker.begin(A, now)
        fail(breaker, 1, now)
    assert lengths == [5, 10, 15, 15, 15]


def test_a_healthy_spell_shrinks_the_next_ejection() -> None:
    """A backend that stayed well for twice its last ejection loses one count."""
    breaker = Breaker()
    fail(breaker, 5, 0.0)
    breaker.begin(A, 5.0)
    breaker.succeeded(A, 5.0)
    breaker.succeeded(A, 20.0)
    fail(breaker, 5, 21.0)
    assert breaker.state("a", 21.0) == ("open", 5.0)


def test_retry_after_never_shortens() -> None:
    """What the provider says holds as max(old, new)."""
    breaker = Breaker()
    breaker.failed(A, error("rate_limited", 30.0), 0.0)
    assert breaker.state("a", 0.0) == ("open", 30.0)
    breaker.failed(A, error("rate_limited", 2.0), 1.0)
    assert breaker.state("a", 1.0) == ("open", 29.0)
    breaker.failed(A, error("rate_limited", 60.0), 2.0)
    assert breaker.state("a", 2.0) == ("open", 60.0)


@pytest.mark.parametrize(("cause", "seconds"), [("auth", 30.0), ("not_found", 30.0), ("rate_limited", 5.0)])
def test_a_refused_key_ejects_at_once(cause: ErrorClass, seconds: float) -> None:
    """401, 404 and 429 do not wait for a fifth failure."""
    breaker = Breaker()
    breaker.failed(A, error(cause), 0.0)
    assert breaker.state("a", 0.0) == ("open", seconds)


@pytest.mark.parametrize("cause", ["bad_request", "content_filter", "context", "cancelled"])
def test_the_requests_own_faults_do_not_count(cause: ErrorClass) -> None:
    """A hundred bad requests leave the circuit closed."""
    breaker = Breaker()
    for _ in range(100):
        breaker.failed(A, error(cause), 0.0)
    assert breaker.state("a", 0.0)[0] == "closed"


def test_forgetting_closes() -> None:
    """A changed configuration deserves a new chance."""
    breaker = Breaker()
    breaker.failed(A, error("auth"), 0.0)
    assert breaker.snapshot(1.0)[0]["state"] == "open"
    breaker.forget("a")
    assert breaker.state("a", 0.0)[0] == "closed"
    assert breaker.snapshot(1.0) == []


def test_names_without_end_are_not_all_remembered() -> None:
    """Those that were not heard of for the longest time go; a busy backend keeps its circuit."""
    breaker = Breaker()
    for i in range(3 * REMEMBERED):
        breaker.failed(replace(A, backend=f"made-up-{i}"), error("not_found"), 0.0)
        if i % 100 == 0:
            breaker.failed(A, error(), 0.0)
    assert len(breaker.snapshot(1.0)) == REMEMBERED
    assert breaker.state("a", 1.0)[0] == "open"


@given(st.lists(st.tuples(st.floats(0, 8), st.sampled_from(["ask", "ok", "server", "rate_limited"])), max_size=80))
def test_at_most_one_trial_is_on_its_way(steps: list[tuple[float, str]]) -> None:
    """Whatever happens, callers that obey `begin` never have two requests at a backend that has not closed again."""
    breaker, now, trial = Breaker(), 0.0, False
    for wait, what in steps:
        now += wait
        state, left = breaker.state("a", now)
        assert (state == "open") == (left > 0)
        if what == "ask":
            if state == "half_open":
                assert not trial or now > 60
                trial = breaker.begin(A, now)
                assert trial and not breaker.begin(A, now)
        elif what == "ok" and (state == "closed" or trial):
            breaker.succeeded(A, now)
            trial = False
            assert breaker.state("a", now)[0] == "closed"
        elif what in ("server", "rate_limited") and (state == "closed" or trial):
            breaker.failed(A, error("server" if what == "server" else "rate_limited"), now)
            trial = False
