"""What counts as a hang: nothing that is only slow, or that nobody could see get on."""

from __future__ import annotations

import pytest

from exo_node.ring.progress import FADING, UNKNOWN_S, Awaited, Hang, ProgressWatch, Turns

SILENCE, PERIOD = 2.0, 0.25


def done(turns: Turns, seconds: float, *uses: tuple[str, int]) -> None:
    """One turn that has ended."""
    turns.begin(0.0)
    for kind, tokens in uses:
        turns.uses(kind, tokens)
    turns.end(seconds)


def looks(watch: ProgressWatch, seconds: float, awaited: Awaited | None = None, start: float = 0.0) -> Hang | None:
    """Look every period for so long; the first finding."""
    for count in range(int(seconds / PERIOD) + 1):
        if (found := watch.look(start + count * PERIOD, awaited)) is not None:
            return found
    return None


@pytest.mark.parametrize(("usual", "limit"), [(0.01, 2.0), (0.5, 5.0)])
def test_a_turn_may_take_ten_times_what_its_like_took(usual: float, limit: float) -> None:
    """At least the silence, whatever is predicted; then it is the engine that hangs."""
    turns = Turns()
    done(turns, usual, ("forward", 4))
    watch = ProgressWatch(turns, SILENCE, PERIOD)
    turns.begin(0.0)
    turns.uses("forward", 3)  # of the same size as 4: both need two bits
    assert looks(watch, limit) is None
    assert watch.look(limit + PERIOD) == Hang(limit + PERIOD, None)


def test_what_was_never_done_has_its_time() -> None:
    """A size without a measure may compile or read weights: it is given minutes, beside a known one too."""
    turns = Turns()
    done(turns, 0.01, ("forward", 1))
    turns.begin(0.0)
    assert turns.predicted() == 0.01, "before anything is asked of the engine: what anything took"
    turns.uses("forward", 1)
    assert turns.predicted() == 0.01
    turns.uses("logits", 256)
    assert turns.predicted() is None
    watch = ProgressWatch(turns, SILENCE, PERIOD)
    assert looks(watch, UNKNOWN_S) is None
    assert looks(watch, PERIOD, start=UNKNOWN_S + PERIOD) is not None


def test_a_step_without_tokens_is_no_measure() -> None:
    """An epoch begins with an empty step: the first decode step after it may still compile."""
    turns = Turns()
    done(turns, 0.001, ("forward", 0))
    turns.begin(0.0)
    turns.uses("forward", 1)
    assert turns.predicted() is None


def test_a_slow_turn_is_remembered_for_a_while() -> None:
    """A long prefill at a long context is followed by the like: the slowest counts, and fades."""
    turns = Turns()
    for seconds in (5.0, 1.0, 1.0):
        done(turns, seconds, ("forward", 256))
    turns.begin(0.0)
    turns.uses("forward", 256)
    assert turns.predicted() == pytest.approx(5.0 * FADING**2)


def test_turns_that_end_are_no_hang() -> None:
    """However long they go on one after the other."""
    turns = Turns()
    done(turns, 0.01, ("forward", 1))
    watch = ProgressWatch(turns, SILENCE, PERIOD)
    for count in range(100):
        turns.begin(0.0)
        turns.uses("forward", 1)
        assert watch.look(count * PERIOD) is None
        turns.end(0.01)


def test_time_in_which_nobody_looked_is_no_ones() -> None:
    """A process that was stopped for a minute, or had no core, does not take its engine or its ring for hung."""
    turns = Turns()
    done(turns, 0.01, ("forward", 1))
    watch = ProgressWatch(turns, SILENCE, PERIOD)
    turns.begin(0.0)
    turns.uses("forward", 1)
    assert watch.look(0.0, Awaited(1, 0.1)) is None
    assert watch.look(60.0, Awaited(1, 0.1)) is None
    turns.end(60.0)
    assert watch.look(120.0, Awaited(1, 0.1)) is None


def test_a_step_that_does_not_come_home() -> None:
    """The ring is given half a silence more than a stage, which knows first and says which it is."""
    watch = ProgressWatch(Turns(), SILENCE, PERIOD)
    assert looks(watch, 3.0, Awaited(7, 0.01)) is None
    assert watch.look(3.25, Awaited(7, 0.01)) == Hang(3.25, 7)


def test_steps_that_come_home_late_are_no_hang() -> None:
    """What counts is how long the same one is the oldest, and only while our own engine could have seen it come."""
    turns = Turns()
    watch = ProgressWatch(turns, SILENCE, PERIOD)
    at = 0.0
    for number in range(8):
        assert looks(watch, 2.5, Awaited(number, 0.1), start=at) is None
        at += 2.75
    done(turns, 9.0, ("forward", 256))
    turns.begin(0.0)
    turns.uses("forward", 256)
    assert looks(watch, 60.0, Awaited(8, 0.1), start=at) is None
