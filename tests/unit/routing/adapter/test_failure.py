"""routing/adapter/failure.py: the one error of a call that nobody answered."""

from __future__ import annotations

from dataclasses import replace

from exo_node.errors import NoCapacity
from exo_node.routing.adapter.failure import final_error, headers_of, nobody
from exo_node.routing.call import UpstreamError
from exo_node.routing.plan import RoutePlan, Step
from exo_node.routing.policy.options import TOO_DEAR
from tests.unit.routing.adapter_parts import call, candidate, failure

STEPS = tuple(Step(candidate=candidate(name), ttft_s=0, total_s=0, cost=None, reason="") for name in ("a", "b", "c"))
PLAN = RoutePlan(strategy="latency", steps=STEPS, rejected={"d": "no key for it"})


def test_one_backend_speaks_for_itself() -> None:
    """Its newest error; the ring's own where it stands for one."""
    old, new = failure("server"), failure("reset")
    assert final_error(call(), PLAN, [(STEPS[0], old), (STEPS[0], new)]) is new
    new.__cause__ = own = NoCapacity("no room")
    assert final_error(call(), PLAN, [(STEPS[0], new)]) is own


def test_several_are_summed_up_by_the_plans_first() -> None:
    """Its cause and status; who could not even be asked counts last; the earliest Retry-After."""
    errors = [
        (STEPS[0], failure("unavailable")),
        (STEPS[1], failure("rate_limited", retry_after=9)),
        (STEPS[2], failure("server", retry_after=4)),
    ]
    made = final_error(call(), PLAN, errors)
    assert isinstance(made, UpstreamError)
    assert (made.cause, made.status, made.retry_after) == ("rate_limited", 429, 4)
    assert made.message.startswith("none of 3 backends answered: scripted: unavailable; scripted: rate_limited")
    assert headers_of(made) == {}


def test_a_quota_is_no_reason_to_wait_for_another_backend() -> None:
    """Who failed in passing may answer in a second; the hour that the next one asks for is not the call's."""
    errors = [(STEPS[0], failure("server")), (STEPS[1], failure("rate_limited", retry_after=3600))]
    made = final_error(call(), PLAN, errors)
    assert (made.status, made.retry_after) == (502, None)


def test_no_time_and_nobody() -> None:
    """A deadline that was over before the first attempt; nobody to ask."""
    late = final_error(call(), PLAN, [])
    assert late.status == 504
    none = nobody(call(), RoutePlan(strategy="latency", steps=(), rejected={"d": "no key"}), [candidate("d")])
    assert (none.status, none.message) == (503, "no backend can serve 'm': d: no key")


def test_nobody_offers_it() -> None:
    """The field is named that asks for what none of them has."""
    plan = RoutePlan(strategy="latency", steps=(), rejected={"a": "it does not offer vision"})
    asked = replace(call(), needs=frozenset({"vision", "tools"}))
    error = nobody(asked, plan, [replace(candidate("a"), capabilities=frozenset({"tools"}))])
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", "messages")


def test_nobody_and_when_again() -> None:
    """No room: when some backend has some. Too dear: the request's fault. No key: not worth another try."""
    plan = RoutePlan(strategy="latency", steps=(), rejected={"a": "x", "b": "x"})
    full = [candidate("a", room=False, room_in_s=40.0), candidate("b", room=False, room_in_s=9.0)]
    error = nobody(call(), plan, full)
    assert (error.status, error.retry_after) == (429, 9.0)
    dear = RoutePlan(strategy="latency", steps=(), rejected={"a": f"predicted to cost $1, {TOO_DEAR} of $0.1"})
    error = nobody(call(), dear, [candidate("a")])
    assert (error.status, error.code) == (400, "max_cost_exceeded")
    assert nobody(call(), plan, [candidate("a")]).retryable
    assert not nobody(call(), plan, [candidate("a", rejected="no key")]).retryable
