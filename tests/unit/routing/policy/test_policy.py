"""The choice of backends."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.errors import InvalidRequest
from exo_node.routing.call import UpstreamError
from exo_node.routing.deployment import Price
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.plan import Ask, Candidate, RoutePlan
from exo_node.routing.policy.policy import choose
from exo_node.routing.policy.strategies import ALIASES, MEANING

ASK = Ask(kind="chat", model="m", prompt_tokens=500, max_tokens=10, stream=True)


def deployment(name: str, **more: object) -> Candidate:
    return replace(Candidate(backend=name, kind="deployment", provider="openai", model=name), **more)  # type: ignore[arg-type]


A, B, C = (deployment(name) for name in "abc")
RING = Candidate(backend="ring:llama", kind="ring", provider="exo", model="llama", capacity=8)


def measured(now: float = 100.0, **seconds: float) -> Profile:
    """A profile that has seen 50 answers of each backend, the last just now."""
    profile = Profile()
    for i in range(50):
        for name, ttft in seconds.items():
            candidate = RING if name == "ring" else deployment(name)
            profile.observe_ttft(candidate, 500, ttft, now - 5 + i * 0.1)
            profile.observe_itl(candidate, 0.01, 50, now - 5 + i * 0.1)
    return profile


def plan(
    candidates: list[Candidate],
    profile: Profile | None = None,
    ask: Ask = ASK,
    breaker: Breaker | None = None,
    now: float = 100.0,
    seed: int = 1,
) -> RoutePlan:
    return choose(candidates, ask, profile or Profile(), breaker or Breaker(), now, random.Random(seed))


def order(found: RoutePlan) -> list[str]:
    return [step.candidate.backend for step in found.steps]


def test_the_fastest_comes_first_and_the_plan_says_why() -> None:
    """Predicted time decides, in one line for people."""
    found = plan([C, B, A], measured(a=0.2, b=0.5, c=1.0))
    assert order(found) == ["a", "b", "c"]
    assert re.fullmatch(
        r"openai/a: predicted 0\.2\d s to the first token against 0\.5\d s of openai/b", found.reason
    ), found.reason
    assert found.steps[0].ttft_s == pytest.approx(0.2, rel=0.1)
    assert found.steps[0].total_s > found.steps[0].ttft_s
    assert found.steps[0].hedge_after_s is not None
    assert not found.explored


def test_a_plain_answer_is_late_only_after_it_should_be_complete() -> None:
    """It is silent while it is made: a hedge for each that is longer than a first token would spend the budget."""
    profile = measured(a=0.2)
    streamed = plan([A], profile, replace(ASK, stream=True)).steps[0]
    whole = plan([A], profile, replace(ASK, stream=False)).steps[0]
    assert streamed.hedge_after_s is not None
    assert whole.hedge_after_s == pytest.approx(streamed.hedge_after_s + whole.total_s - whole.ttft_s)


def test_the_answers_length_counts() -> None:
    """A backend that starts sooner but writes slower loses long answers."""
    profile = measured(a=0.2, b=0.4)
    for i in range(50):
        profile.observe_itl(A, 0.1, 50, 95 + i * 0.1)
    assert order(plan([A, B], profile, replace(ASK, max_tokens=1)))[0] == "a"
    assert order(plan([A, B], profile, replace(ASK, max_tokens=200)))[0] == "b"


def test_the_cheaper_of_two_alike() -> None:
    """Cost is the second axis."""
    profile = measured(a=0.2, b=0.202)
    dear, cheap = replace(A, price=Price(10, 10)), replace(B, price=Price(1, 1))
    found = plan([dear, cheap], profile)
    assert order(found)[0] == "b"
    assert "cheaper" in found.reason


def test_alike_backends_share_the_load() -> None:
    """Power of two choices: among equals the one with less in flight."""
    profile = measured(a=0.2, b=0.2, c=0.2)
    counts = {"a": 0, "b": 0, "c": 0}
    for seed in range(90):
        chosen = order(plan([A, B, C], profile, seed=seed))[0]
        profile.started(chosen)
        counts[chosen] += 1
    assert min(counts.values()) > 20


def test_who_may_not_is_named() -> None:
    """Rejected candidates are in the plan with their reason; without any other there are no steps."""
    found = plan([replace(A, rejected="no key for openai"), replace(B, room=False)])
    assert found.steps == ()
    assert found.rejected == {"a": "no key for openai", "b": "its rate limit or budget has no room now"}
    assert found.reason == "no backend can serve this request"


def test_an_ejected_backend_is_left_out() -> None:
    """An open circuit rejects; when all are open the least bad is offered, but not who asked to be left alone."""
    breaker = Breaker()
    breaker.failed(A, UpstreamError("x", "rate_limited", retry_after=20), 99.0)
    found = plan([A, B], measured(a=0.2, b=0.5), breaker=breaker)
    assert order(found) == ["b"]
    assert found.rejected == {"a": "failed lately: not asked for 19.0 s more"}
    breaker.failed(B, UpstreamError("x", "auth"), 99.0)
    found = plan([A, B], measured(a=0.2, b=0.5), breaker=breaker)
    assert order(found) == ["b"]
    assert "every backend failed lately" in found.reason
    breaker = Breaker()
    breaker.failed(A, UpstreamError("x", "rate_limited", retry_after=20), 99.0)
    breaker.failed(B, UpstreamError("x", "rate_limited", retry_after=5), 99.0)
    found = plan([A, B], measured(a=0.2, b=0.5), breaker=breaker)
    assert (order(found), found.retry_after_s) == ([], 4.0)
    assert "every backend asked to be left alone" in found.reason


def test_a_half_open_backend_that_would_be_best_gets_its_one_request() -> None:
    """The trial is a real request, sent there first, with the healthy ones behind it."""
    breaker, profile = Breaker(), measured(a=0.2, b=0.5)
    breaker.failed(A, UpstreamError("x", "rate_limited", retry_after=5), 95.0)
    found = plan([A, B], profile, breaker=breaker)
    assert order(found) == ["a", "b"]
    assert found.explored
    breaker.begin(A, 100.0)
    assert order(plan([A, B], profile, breaker=breaker, now=100.1)) == ["b"]


def test_a_backend_that_got_slow_is_looked_at_again() -> None:
    """After its gap one request goes there to learn, and the plan says so."""
    profile = measured(now=90.0, a=0.2)
    for i in range(100):
        profile.observe_ttft(B, 500, 0.5, 90 + i * 0.1)
    profile.observe_ttft(A, 500, 5.0, 90.0)
    profile.observe_ttft(A, 500, 5.0, 90.5)
    assert order(plan([A, B], profile, now=91.0))[0] == "b"
    found = plan([A, B], profile, now=100.0)
    assert order(found)[0] == "a"
    assert found.explored
    assert "a look at openai/a" in found.reason


def test_tiers_follow_one_another() -> None:
    """A fallback stands behind, however fast it is, and a backend listed twice counts once."""
    found = plan([replace(A, tier=1), B, replace(B, tier=2)], measured(a=0.1, b=2.0))
    assert order(found) == ["b", "a"]
    assert found.steps[1].reason.startswith("openai/a: only if the ones before fail")


def test_cost_and_priority_and_busy_and_usage() -> None:
    """Each strategy's own measure decides, unknown prices last, ties by latency."""
    profile = measured(a=0.2, b=0.5, c=1.0)
    priced = [A, replace(B, price=Price(5, 5)), replace(C, price=Price(1, 1))]
    found = plan(priced, profile, replace(ASK, strategy="least-cost"))
    assert order(found) == ["c", "b", "a"]
    assert "cheapest: $0.000510 against $0.002550 of openai/b" in found.reason
    ordered = [replace(A, order=2), replace(B, order=1), C]
    assert order(plan(ordered, profile, replace(ASK, strategy="priority"))) == ["b", "a", "c"]
    profile.started("a")
    assert order(plan([A, B, C], profile, replace(ASK, strategy="least-busy"))) == ["b", "c", "a"]
    profile.used(B, 5000, 100.0)
    assert order(plan([A, B, C], profile, replace(ASK, strategy="usage-based-routing-v2")))[-1] == "b"


def test_local_and_cloud_first() -> None:
    """The ring first or last, whatever the latency."""
    profile = measured(a=0.2, b=0.5, ring=3.0)
    assert order(plan([A, B, RING], profile, replace(ASK, strategy="local-first"))) == ["ring:llama", "a", "b"]
    assert order(plan([RING, B, A], profile, replace(ASK, strategy="cloud-first"))) == ["a", "b", "ring:llama"]


def test_heuristic_and_hybrid() -> None:
    """A hard task goes to the strong model, an easy one to the cheap; hybrid lets latency pick those that suit."""
    strong = replace(A, price=Price(5, 20))
    other = replace(C, price=Price(5, 18))
    small = replace(B, price=Price(0.1, 0.4))
    profile = measured(a=1.0, b=0.2, c=0.5)
    hard = replace(ASK, text="Refactor this complex code carefully", prompt_tokens=5000, strategy="heuristic")
    easy = replace(ASK, text="hi", strategy="heuristic")
    assert order(plan([small, strong, other], profile, hard))[0] == "a"
    assert order(plan([small, strong, other], profile, easy))[0] == "b"
    assert order(plan([small, strong, other], profile, replace(hard, strategy="hybrid"))) == ["c", "a", "b"]


def test_cascade_is_cheap_first_and_marked() -> None:
    """The adapter must check the answers of a cascade; one backend alone is none."""
    candidates = [replace(A, price=Price(5, 5)), replace(B, price=Price(1, 1))]
    found = plan(candidates, ask=replace(ASK, strategy="cascade"))
    assert order(found) == ["b", "a"]
    assert found.cascade
    assert not plan(candidates[:1], ask=replace(ASK, strategy="cascade")).cascade


def test_weights_are_kept() -> None:
    """simple-shuffle sends 9 of 10 to the weight 0.9, and none first to one without a weight."""
    candidates = [replace(A, weight=0.9), replace(B, weight=0.1), C]
    ask = replace(ASK, strategy="simple-shuffle")
    firsts = [order(plan(candidates, ask=ask, seed=seed))[0] for seed in range(400)]
    assert 330 <= firsts.count("a") <= 385
    assert "c" not in firsts


def test_a_group_shuffles_by_itself_and_the_node_chooses_between_groups() -> None:
    """A router group's members follow its own strategy; latency decides between the group and the others."""
    g1, g2 = replace(A, group="g"), replace(B, group="g")
    profile = measured(a=0.2, b=0.21, c=1.0)
    firsts = {order(plan([g1, g2, C], profile, seed=seed))[0] for seed in range(40)}
    assert firsts == {"a", "b"}
    assert all(order(plan([g1, g2, C], profile, seed=seed))[2] == "c" for seed in range(20))
    by_latency = [replace(g, group_strategy="latency-based-routing") for g in (g1, replace(C, group="g"))]
    assert order(plan(by_latency, profile))[0] == "a"
    ordered = [replace(g1, order=2), replace(g2, order=1)]
    assert {order(plan(ordered, profile, seed=seed))[0] for seed in range(20)} == {"b"}


def test_a_requests_wish_holds_inside_groups() -> None:
    """A strategy that the request names wins over the group's."""
    group = [replace(A, group="g", price=Price(5, 5)), replace(B, group="g", price=Price(1, 1))]
    ask = replace(ASK, strategy="cost", wished=True)
    assert {order(plan(group, ask=ask, seed=seed))[0] for seed in range(20)} == {"b"}


def test_an_unknown_strategy_is_the_callers_fault() -> None:
    """400 with the nearest name."""
    with pytest.raises(InvalidRequest, match="did you mean 'cost'"):
        plan([A], ask=replace(ASK, strategy="cots"))
    with pytest.raises(InvalidRequest, match="router group 'g'"):
        plan([replace(A, group="g", group_strategy="lar1"), replace(B, group="g", group_strategy="lar1")])


@st.composite
def candidate_lists(draw: st.DrawFn) -> list[Candidate]:
    count = draw(st.integers(0, 7))
    return [
        Candidate(
            backend=f"x{i}",
            kind=draw(st.sampled_from(["ring", "deployment", "peer"])),
            provider=draw(st.sampled_from(["openai", "groq", "exo"])),
            model="m",
            tier=draw(st.integers(0, 2)),
            group=draw(st.sampled_from(["", "g", "h"])),
            group_strategy=draw(st.sampled_from(["", "least-busy", "latency-based-routing"])),
            price=draw(st.sampled_from([None, Price(1, 2), Price(10, 20)])),
            weight=draw(st.sampled_from([None, 0.5, 2.0])),
            order=draw(st.sampled_from([None, 1, 2])),
            room=draw(st.booleans()),
            rejected=draw(st.sampled_from(["", "", "no key"])),
        )
        for i in range(count)
    ]


@given(candidate_lists(), st.sampled_from([*MEANING, *ALIASES]), st.integers(0, 50), st.booleans(), st.data())
def test_every_candidate_is_in_the_plan_once(
    candidates: list[Candidate], strategy: str, seed: int, wished: bool, data: st.DataObject
) -> None:
    """Whatever the strategy: each backend is a step or rejected, never both; tiers ascend; nobody rejected is asked."""
    breaker, profile = Breaker(), Profile()
    for c in candidates:
        if data.draw(st.booleans()):
            breaker.failed(c, UpstreamError("x", "rate_limited", retry_after=data.draw(st.sampled_from([1, 500]))), 0.0)
        if data.draw(st.booleans()):
            profile.observe_ttft(c, 500, data.draw(st.floats(0.01, 10)), 50.0)
    ask = replace(ASK, strategy=strategy, wished=wished)
    found = plan(candidates, profile, ask, breaker, seed=seed)
    steps = order(found)
    assert len(steps) == len(set(steps))
    assert {*steps} | {*found.rejected} == {c.backend for c in candidates}
    assert not {*steps} & {*found.rejected}
    tiers = [s.candidate.tier for s in found.steps]
    assert tiers == sorted(tiers)
    assert all(s.candidate.room and not s.candidate.rejected for s in found.steps)
    assert all("\n" not in s.reason and s.reason for s in found.steps)
    able = any(c.room and not c.rejected for c in candidates)
    assert able == (bool(found.steps) or found.retry_after_s is not None)


@pytest.mark.parametrize("strategy", ["latency", "simple-shuffle", "least-busy", "cost"])
def test_a_full_deployment_comes_last(strategy: str) -> None:
    """Where as many requests run as a deployment takes at once, the others of its tier are asked first."""
    full, profile = replace(A, capacity=1, weight=9.0), measured(a=0.1, b=0.5)
    profile.started("a", 100.0, 1, None)
    found = plan([full, replace(B, weight=1.0), replace(C, tier=1)], profile, replace(ASK, strategy=strategy))
    assert order(found) == ["b", "a", "c"]
    assert order(plan([full], profile)) == ["a"]
