"""The latency profile."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from exo_node.routing.health.profile import HEDGE_SAMPLES, LOOK_BURST, REMEMBERED, Profile
from exo_node.routing.plan import Candidate

A = Candidate(backend="a", kind="deployment", provider="openai", model="gpt-4o")
B = replace(A, backend="b", provider="anthropic", model="claude")
RING = Candidate(backend="ring:llama", kind="ring", provider="exo", model="llama", capacity=2)


def serve(profile: Profile, candidate: Candidate, ttft: float, now: float, key: object = "k") -> None:
    profile.started(candidate.backend, now - ttft, key, 500)
    profile.observe_ttft(candidate, 500, ttft, now, key)
    profile.observe_itl(candidate, 0.01, 100, now)
    profile.ended(candidate.backend, key)


def test_unknown_backends_get_priors() -> None:
    """The first request is sensible: nobody is at 0, known-fast providers are ahead, a busy ring behind an idle one."""
    profile = Profile()
    groq = replace(A, backend="g", provider="groq")
    peer = replace(A, backend="a@n", kind="peer", node_id="n")
    assert profile.ttft(A, 500, 0.0) == pytest.approx(0.625)
    assert 0 < profile.ttft(groq, 500, 0.0) < profile.ttft(A, 500, 0.0) < profile.ttft(peer, 500, 0.0)
    assert profile.known(A, 0.0) == 0
    assert profile.p95_ttft(A, 500, 0.0) is None
    idle = profile.ttft(RING, 500, 0.0)
    for _ in range(4):
        profile.started(RING.backend)
    assert profile.ttft(RING, 500, 0.0) > idle


def test_estimates_follow_measurements() -> None:
    """Twenty answers make the estimate, the spread between tokens and p95."""
    profile, rng = Profile(), random.Random(3)
    for i in range(HEDGE_SAMPLES + 5):
        serve(profile, A, 0.2 * rng.uniform(0.8, 1.25), float(i))
    now = float(HEDGE_SAMPLES + 5)
    assert profile.ttft(A, 500, now) == pytest.approx(0.2, rel=0.2)
    assert profile.itl(A, now) == pytest.approx(0.01, rel=0.1)
    p95 = profile.p95_ttft(A, 500, now)
    assert p95 is not None
    assert 0.2 < p95 < 0.35
    assert profile.known(A, now) > 0.8 > profile.known(A, now + 600)


def test_a_request_that_waits_is_a_sign() -> None:
    """Before it has ended, one that waits for ten times the usual moves the estimate."""
    profile = Profile()
    for i in range(50):
        serve(profile, A, 0.2, i * 0.2)
    profile.started("a", 10.0, "slow", 500)
    assert profile.ttft(A, 500, 10.1) == pytest.approx(0.2, rel=0.2)
    assert profile.ttft(A, 500, 12.0) > 1.0
    profile.ended("a", "slow")
    assert profile.ttft(A, 500, 12.0) == pytest.approx(0.2, rel=0.2)


def test_a_plain_answer_may_take_its_time() -> None:
    """Without a prompt length (not streamed) a long silence is no sign, but nobody else looks meanwhile."""
    profile = Profile()
    for i in range(50):
        serve(profile, A, 0.2, i * 0.2)
    before = profile.ttft(A, 500, 10.0)
    profile.started("a", 10.0, "plain")
    assert profile.ttft(A, 500, 20.0) == pytest.approx(before, rel=0.1)
    assert profile.due(A, 500, 30.0) is None


def test_in_flight_counts() -> None:
    """Starts and ends balance, and never go below nothing."""
    profile = Profile()
    profile.started("a")
    profile.started("a")
    profile.ended("a")
    assert profile.in_flight("a") == 1
    profile.ended("a")
    profile.ended("a")
    assert profile.in_flight("a") == 0
    assert profile.in_flight("nobody") == 0


@pytest.mark.parametrize("cause", ["server", "timeout", "refused", "reset", "eof", "malformed"])
def test_a_failure_counts_as_latency(cause: str) -> None:
    """Two fast failures make a backend look slower than a slow one."""
    profile = Profile()
    for i in range(30):
        serve(profile, A, 0.2, i * 0.2)
    for i in range(2):
        profile.observe_failure(A, cause, 0.01, 6.0 + i * 0.1)
    assert profile.ttft(A, 500, 6.2) > 0.8


@pytest.mark.parametrize("cause", ["bad_request", "cancelled", "auth", "rate_limited", "context"])
def test_faults_of_the_request_or_the_key_are_no_latency(cause: str) -> None:
    """The breaker looks after those."""
    profile = Profile()
    serve(profile, A, 0.2, 1.0)
    before = profile.ttft(A, 500, 1.0)
    profile.observe_failure(A, cause, 30.0, 1.0)
    assert profile.ttft(A, 500, 1.0) == before


def test_a_recovered_backend_is_due_within_its_gap() -> None:
    """After a slow spell it is due for a look within 15 s, one request at a time, and hoped to be as it was."""
    profile = Profile()
    for i in range(50):
        serve(profile, A, 0.2, i * 0.2)
    for i in range(20):
        serve(profile, A, 4.0, 10.0 + i * 3)
    now = 10.0 + 19 * 3
    assert profile.due(A, 500, now) is None
    hoped = profile.due(A, 500, now + 15.0)
    assert hoped is not None
    assert hoped < 0.5
    profile.started("a", now + 15.0, "look", 500)
    assert profile.due(A, 500, now + 40.0) is None


def test_looks_are_rationed() -> None:
    """At most one request in twenty goes somewhere only to learn, after a first few."""
    profile = Profile()
    looks, now = 0, 0.0
    backends = [replace(A, backend=f"x{i}") for i in range(50)]
    for candidate in backends:
        serve(profile, candidate, 0.2, now)
    now = 1000.0
    for i in range(400):
        serve(profile, B, 0.2, now + i * 0.5, key=i)
        candidate = backends[i % 50]
        if profile.due(candidate, 500, now + i * 0.5) is not None:
            looks += 1
            serve(profile, candidate, 0.2, now + i * 0.5 + 0.1, key=i)
    assert looks <= LOOK_BURST + 0.06 * 400


def test_tokens_of_the_minute() -> None:
    """Usage counts per running minute."""
    profile = Profile()
    profile.used(A, 100, 61.0)
    profile.used(A, 50, 119.0)
    assert profile.tokens_this_minute("a", 119.5) == 150
    assert profile.tokens_this_minute("a", 120.5) == 0
    assert profile.tokens_this_minute("nobody", 0.0) == 0


def test_rows_survive_a_restart() -> None:
    """Rows are JSON, one per bin and one of all, and give the same estimates back."""
    profile = Profile()
    for i in range(60):
        serve(profile, A, 0.2, 1000 + i * 0.2)
    rows = json.loads(json.dumps(profile.snapshot(1012.0)))
    assert {(row["backend"], row["model"], row["bin"]) for row in rows} == {("a", "gpt-4o", -1), ("a", "gpt-4o", 1)}
    other = Profile()
    other.load(rows, now=5.0, elapsed_s=10.0)
    assert other.ttft(A, 500, 5.0) == pytest.approx(profile.ttft(A, 500, 1012.0), rel=0.1)
    assert other.known(A, 5.0) > 0.9


def test_a_malformed_row_is_refused() -> None:
    """A row without its fields is named, not guessed at."""
    with pytest.raises(ValueError, match="not a row of the latency profile"):
        Profile().load([{"backend": "a", "bin": -1}], 0.0)


def test_a_peers_rows_become_the_prior() -> None:
    """The same provider and model elsewhere moves what is expected here; a peer's ring does not."""
    theirs = Profile()
    for i in range(60):
        serve(theirs, replace(A, backend="other-id"), 0.2, i * 0.2)
        serve(theirs, RING, 9.0, i * 0.2)
    mine = Profile()
    before = mine.ttft(RING, 500, 0.0)
    mine.merge(theirs.snapshot(12.0), weight=0.8)
    assert mine.ttft(A, 500, 0.0) < 0.35
    assert mine.ttft(B, 500, 0.0) > 0.6
    assert mine.ttft(RING, 500, 0.0) == before
    assert mine.known(A, 0.0) == 0


def test_forgetting() -> None:
    """A deployment that is gone leaves nothing behind."""
    profile = Profile()
    serve(profile, A, 0.2, 0.0)
    profile.forget("a")
    assert profile.snapshot(1.0) == []


def test_names_without_end_are_not_all_remembered() -> None:
    """Who was not asked for the longest time goes, unless it is being asked; what ends later leaves no trace."""
    profile = Profile()
    profile.started(RING.backend, 0.0, "running", 10)
    serve(profile, B, 0.2, 0.0)
    for i in range(2 * REMEMBERED):
        one = replace(A, backend=f"made-up-{i}")
        profile.ttft(one, 500, 0.0)
        serve(profile, one, 0.2, 0.0)
        if i % 100 == 0:
            serve(profile, A, 0.2, 0.0)
    rows = {row["backend"] for row in profile.snapshot(1.0)}
    assert len(rows) < REMEMBERED
    assert "a" in rows and "b" not in rows
    assert profile.flying()[RING.backend] == 1
    profile.started("gone", 0.0, "k")
    profile.forget("gone")
    profile.ended("gone", "k")
    assert "gone" not in profile.flying()
