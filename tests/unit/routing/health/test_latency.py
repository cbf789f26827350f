"""What is known of one backend's latency."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.routing.health.latency import BINS, LOOK_GAP_S, Fit, Prior, Track, bin_of

CLOUD = Prior(0.6, 0.05, 0.0, 0.02)


def fed(track: Track, seconds: float, begin: float, times: int, every: float = 0.1, prompt: int = 500) -> float:
    """`times` answers of `seconds`; the time after the last."""
    for i in range(times):
        track.see(prompt, 0, seconds, begin + i * every)
    return begin + times * every


def estimate(track: Track, now: float, prompt: int = 500) -> float:
    return track.usual(prompt, 0, now) * math.exp(track.level_now(now))


def test_bins() -> None:
    """Bounds belong to the bin above."""
    assert [bin_of(n) for n in (0, 255, 256, 65535, 65536)] == [0, 0, 1, len(BINS) - 1, len(BINS)]


def test_nothing_measured_is_the_prior() -> None:
    """The first estimate is the prior, never 0."""
    assert Track(CLOUD).usual(1000, 0, 5.0) == pytest.approx(0.65)


def test_the_line_finds_prompt_and_load() -> None:
    """Seconds per 1000 tokens and per request in flight are told apart."""
    rng, track = random.Random(1), Track(CLOUD)
    for i in range(600):
        prompt, load = rng.randrange(100, 8000), rng.randrange(8)
        track.see(prompt, load, (0.3 + 0.2 * prompt / 1000 + 0.05 * load) * math.exp(rng.gauss(0, 0.1)), i * 0.1)
    a, b, c = track.line
    assert a == pytest.approx(0.3, rel=0.2)
    assert b == pytest.approx(0.2, rel=0.2)
    assert c == pytest.approx(0.05, rel=0.3)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50), st.floats(0.001, 100), st.floats(0.01, 1)), max_size=50))
def test_the_line_is_never_negative(samples: list[tuple[float, float, float, float]]) -> None:
    """Whatever is seen, more prompt or load never makes a prediction smaller, and it stays above 0."""
    fit = Fit()
    for prompt, load, seconds, weight in samples:
        fit.add(prompt, load, seconds, seconds, weight)
    a, b, c = fit.solve(CLOUD)
    assert a > 0 and b >= 0 and c >= 0
    assert math.isfinite(a + b + c)


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 100000), st.floats(0, 1000)), max_size=60))
def test_estimates_stay_finite_and_positive(samples: list[tuple[float, int, float]]) -> None:
    """No sequence of samples breaks an estimate."""
    track, now = Track(CLOUD), 0.0
    for wait, prompt, seconds in samples:
        now += wait
        track.see(prompt, 0, seconds, now)
        assert 0 < estimate(track, now, prompt) < math.inf
        assert 0 <= track.premium(now) < math.inf


def test_a_step_is_believed_after_two_answers() -> None:
    """Ten times slower: the second answer brings the estimate most of the way."""
    track = Track(CLOUD)
    now = fed(track, 0.3, 0.0, 100)
    assert estimate(track, now) == pytest.approx(0.3, rel=0.15)
    fed(track, 3.0, now, 2)
    assert estimate(track, now + 0.2) > 2.0


def test_one_outlier_is_taken_back() -> None:
    """A single slow answer is forgotten with the next ordinary one."""
    track = Track(CLOUD)
    now = fed(track, 0.3, 0.0, 100)
    track.see(500, 0, 3.0, now)
    assert estimate(track, now) > 0.6
    track.see(500, 0, 0.3, now + 0.1)
    assert estimate(track, now + 0.1) == pytest.approx(0.3, rel=0.2)


def test_a_recovery_is_believed_at_once() -> None:
    """The first answer that is as fast as ever ends a slow spell."""
    track = Track(CLOUD)
    now = fed(track, 0.3, 0.0, 100)
    now = fed(track, 3.0, now, 30)
    track.see(500, 0, 0.3, now)
    assert estimate(track, now) == pytest.approx(0.3, rel=0.3)


def test_what_was_seen_fades_without_a_look() -> None:
    """A slow spell is half forgotten after half a minute, and what is usual becomes the prior after hours."""
    track = Track(CLOUD)
    now = fed(track, 0.3, 0.0, 100)
    now = fed(track, 3.0, now, 5)
    assert estimate(track, now + 90) < estimate(track, now) / 3
    assert estimate(track, now + 1e6) == pytest.approx(CLOUD.ttft(500, 0), rel=0.1)


def test_disappointing_looks_grow_rarer_to_a_bound() -> None:
    """The gap doubles, at most once a gap, up to 15 s."""
    track = Track(CLOUD)
    now = fed(track, 0.3, 0.0, 100)
    gaps = []
    for _ in range(8):
        track.see(500, 0, 5.0, now)
        gaps.append(track.gap)
        now += track.gap
    assert gaps == sorted(gaps)
    assert gaps[-1] == LOOK_GAP_S[1]


def test_spells_that_come_again_cost_and_one_does_not() -> None:
    """A habit of slow spells makes a backend dearer; the first spell is free, and a calm time forgives."""
    track = Track(CLOUD)
    now = fed(track, 0.3, 0.0, 100)
    now = fed(track, 3.0, now, 5)
    now = fed(track, 0.3, now, 200)
    assert track.premium(now) == 0
    now = fed(track, 3.0, now, 5)
    now = fed(track, 0.3, now, 5)
    assert track.premium(now) > 0.3
    assert track.premium(now + 600) < 0.1


def test_a_bin_learns_what_the_line_misses() -> None:
    """Long prompts that are much slower than a straight line says get their own factor; sparse bins keep the line."""
    track = Track(CLOUD)
    for i in range(300):
        track.see(100, 0, 0.3, i * 0.2)
        track.see(30000, 0, 6.0, i * 0.2 + 0.1)
        track.see(2000, 0, 0.3, i * 0.2 + 0.15)
    assert track.usual(2000, 0, 60.0) == pytest.approx(0.3, rel=0.35)
    assert track.usual(30000, 0, 60.0) == pytest.approx(6.0, rel=0.35)


def test_tracks_survive_as_rows() -> None:
    """`as_dict` and `restore` keep the estimate, also over a restart with another clock."""
    track = Track(CLOUD)
    now = fed(track, 0.3, 1000.0, 50)
    track.see_itl(0.01, 50, now)
    other = Track(CLOUD)
    other.restore(track.as_dict(now), 5.0, 0.0)
    assert estimate(other, 5.0) == pytest.approx(estimate(track, now), rel=0.2)
    assert other.itl_now(5.0) == pytest.approx(track.itl_now(now))
