"""Sliding windows."""

from __future__ import annotations

import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from exo_node.limits.rates import MINUTE_S, SWEEP_EVERY, Limit, Windows

gaps = st.lists(st.one_of(st.just(0.0), st.floats(0, 0.5), st.floats(0, 70)), max_size=120)


@settings(max_examples=120, deadline=None)
@given(gaps, st.integers(1, 10))
def test_never_more_than_the_limit_in_any_window(arrivals: list[float], most: int) -> None:
    """Whatever the arrivals: no minute lets more than the limit through, and what is refused had no room."""
    windows, limit = Windows(), Limit("x", most, None)
    now, passed = 0.0, list[float]()
    for index, gap in enumerate(arrivals):
        now += gap
        refusal = windows.take([limit], str(index), 1, now)
        recent = [at for at in passed if now - at < MINUTE_S]
        assert (refusal is None) == (len(recent) < most)
        if refusal is None:
            passed.append(now)
        else:
            assert refusal.wait_s is not None
            assert abs(recent[len(recent) - most] + MINUTE_S - now - refusal.wait_s) < 1e-6
    assert all(later - first >= MINUTE_S for first, later in zip(passed, passed[most:], strict=False))


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 12), st.integers(0, 20)), max_size=80))
def test_tokens_are_reserved_and_settled(calls: list[tuple[float, int, int]]) -> None:
    """A call passes exactly when its estimate fits beside what the window's calls have really used."""
    windows, limit = Windows(), Limit("x", None, 10)
    now, used = 0.0, list[tuple[float, int]]()
    for index, (gap, estimate, real) in enumerate(calls):
        now += gap
        inside = sum(tokens for at, tokens in used if now - at < MINUTE_S)
        refusal = windows.take([limit], str(index), estimate, now)
        assert (refusal is None) == (inside + estimate <= 10)
        if refusal is None:
            windows.settle(["x"], str(index), real)
            used.append((now, real))
        else:
            assert (refusal.wait_s is None) == (estimate > 10)
            if refusal.wait_s is not None:
                later = copy.deepcopy(windows)
                assert later.refusal([limit], estimate, now + refusal.wait_s + 1e-6) is None


def test_all_limits_or_none() -> None:
    """A request that one of its limits refuses takes nothing from the others."""
    windows = Windows()
    wide, narrow = Limit("wide", 10, None), Limit("narrow", 1, None)
    assert windows.take([wide, narrow], "1", 0, 0.0) is None
    refusal = windows.take([wide, narrow], "2", 0, 1.0)
    assert refusal is not None
    assert (refusal.limit, refusal.what, refusal.wait_s) == (narrow, "requests", 59.0)
    assert windows.count("wide", 1.0) == 1


def test_the_longest_wait_counts() -> None:
    """Where several limits refuse, the one that takes longest is told; one that never lets it through above all."""
    windows = Windows()
    first, second = Limit("first", 1, None), Limit("second", 1, 5)
    windows.add(["first"], "1", 0, 0.0)
    windows.add(["second"], "2", 0, 10.0)
    refusal = windows.refusal([first, second], 1, 20.0)
    assert refusal is not None and refusal.limit is second and refusal.wait_s == 50.0
    refusal = windows.refusal([first, second], 6, 20.0)
    assert refusal is not None and refusal.what == "tokens" and refusal.wait_s is None
    nothing = windows.refusal([Limit("shut", 0, None)], 1, 20.0)
    assert nothing is not None and nothing.wait_s is None


def test_a_release_undoes() -> None:
    """What was released counts nowhere, and a second release or a late settlement changes nothing."""
    windows, limit = Windows(), Limit("x", 1, 100)
    assert windows.take([limit], "1", 60, 0.0) is None
    windows.release(["x"], "1")
    windows.release(["x"], "1")
    windows.settle(["x"], "1", 99)
    assert (windows.count("x", 0.0), windows.total("x", 0.0)) == (0, 0)
    assert windows.take([limit], "2", 100, 0.0) is None
    assert list(windows.entries(1.0)) == [("x", [("2", 1.0, 100)])]


def test_scopes_that_nobody_uses_are_forgotten() -> None:
    """Thousands of users who came once leave nothing behind."""
    windows = Windows()
    for index in range(SWEEP_EVERY * 2):
        windows.add([f"user:{index}"], str(index), 1, index * 1.0)
    assert len(windows._windows) <= MINUTE_S
