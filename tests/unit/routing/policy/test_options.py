"""Who may serve a call, and what is predicted of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from exo_node.routing.deployment import Price
from exo_node.routing.health.profile import Profile
from exo_node.routing.plan import Ask, Candidate
from exo_node.routing.policy.options import cost_of, emulated, expected_output, name_of, predict, tell_apart, why_not

A = Candidate(backend="a", kind="deployment", provider="openai", model="gpt-4o", capabilities=frozenset({"vision"}))
RING = Candidate(backend="ring:llama", kind="ring", provider="exo", model="llama", capacity=2)
ASK = Ask(kind="chat", model="gpt-4o", prompt_tokens=1000, max_tokens=100, stream=True)


@pytest.mark.parametrize(
    ("candidate", "ask", "why"),
    [
        ({}, {}, ""),
        ({"rejected": "no key for openai"}, {}, "no key for openai"),
        ({}, {"provider": "groq"}, "the request wants provider groq"),
        ({}, {"provider": "openai"}, ""),
        ({}, {"needs": frozenset({"vision"})}, ""),
        ({}, {"needs": frozenset({"vision", "audio"})}, "it does not offer audio"),
        ({"context": 900}, {}, "its context of 900 tokens is too small for a prompt of about 1000"),
        ({"context": 1050}, {},
         "its context of 1050 tokens does not hold about 1000 of the prompt and 100 of the answer"),
        ({"context": 2000}, {}, ""),
        ({"context": 1050}, {"longest": 500}, ""),  # several prompts: each has the context for itself
        ({"context": 1050}, {"answers": 2}, ""),  # and each answer
        ({"room": False}, {}, "its rate limit or budget has no room now"),
        ({}, {"max_cost": 1.0}, "its price is not known and the request has a max_cost"),
        ({"price": Price(100, 100)}, {"max_cost": 0.01},
         "predicted to cost $0.110000, more than the max_cost of $0.01"),
        ({"price": Price(1, 1)}, {"max_cost": 0.01}, ""),
    ],
)  # fmt: skip
def test_constraints(candidate: dict[str, Any], ask: dict[str, Any], why: str) -> None:
    """Each reason names what is missing and by how much."""
    assert why_not(replace(A, **candidate), replace(ASK, **ask), frozenset()) == why


def test_the_ring_by_its_words() -> None:
    """`provider: local` and `provider: exo` both mean the ring, which costs nothing."""
    for word in ("local", "ring", "exo"):
        assert why_not(RING, replace(ASK, provider=word, max_cost=0.0), frozenset()) == ""


def test_litellm_is_whoever_is_external() -> None:
    """Document 002's provider name: any deployment, this node's or a peer's, and no ring."""
    ask = replace(ASK, provider="litellm")
    assert [why_not(one, ask, frozenset()) for one in (A, replace(A, kind="peer"))] == ["", ""]
    assert why_not(RING, ask, frozenset()) == "the request wants provider litellm"


def test_tools_are_prompted_for_where_nobody_has_them() -> None:
    """With a native backend the others are out, without one external models are asked by prompt, the ring never."""
    ask = replace(ASK, needs=frozenset({"tools"}))
    native = replace(A, backend="n", capabilities=frozenset({"tools"}))
    assert emulated([A, native], ask) == frozenset()
    assert emulated([A, replace(native, rejected="no key")], ask) == {"tools"}
    assert why_not(A, ask, frozenset({"tools"})) == ""
    assert why_not(RING, ask, frozenset({"tools"})) == "it does not offer tools"


def test_names_for_people() -> None:
    """Providers are named once, peers with their node."""
    assert name_of(A) == "openai/gpt-4o"
    assert name_of(replace(A, model="openai/gpt-4o", node_id="n2")) == "openai/gpt-4o@n2"
    assert name_of(RING) == "ring:llama"


def test_deployments_of_the_same_model_are_told_apart() -> None:
    """Where several have the same model, the name says which one is meant."""
    options = [predict(c, ASK, Profile(), 0.0, half_open=False) for c in (A, RING, replace(A, backend="b"))]
    tell_apart(options)
    assert [o.name for o in options] == ["openai/gpt-4o (a)", "ring:llama", "openai/gpt-4o (b)"]


def test_output_and_cost() -> None:
    """A typical answer bounded by the request; none for embeddings; unknown prices stay unknown."""
    assert expected_output(ASK) == 100
    assert expected_output(replace(ASK, max_tokens=None)) == 256
    assert expected_output(replace(ASK, kind="embedding")) == 0
    assert cost_of(A, ASK) is None
    assert cost_of(RING, ASK) == 0.0
    assert cost_of(replace(A, price=Price(1, 10)), ASK) == pytest.approx(0.002)


def test_a_full_ring_queues_and_a_cold_one_loads() -> None:
    """Taken slots and loading are part of the predicted time."""
    profile = Profile()
    idle = predict(RING, ASK, profile, 0.0, half_open=False)
    cold = predict(replace(RING, cold_s=7.0), ASK, profile, 0.0, half_open=False)
    assert cold.ttft_s == pytest.approx(idle.ttft_s + 7)
    for _ in range(4):
        profile.started(RING.backend)
    full = predict(RING, ASK, profile, 0.0, half_open=False)
    assert full.ttft_s > idle.ttft_s + 4
    assert full.load == 2.0
