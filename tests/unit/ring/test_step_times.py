"""What a ring learns of its own times."""

from __future__ import annotations

import pytest

from exo_node.ring.messages import Report
from exo_node.ring.step_times import RingTimes, StepTimes


def learned(*points: tuple[int, float]) -> StepTimes:
    times = StepTimes()
    for tokens, seconds in points:
        times.add(tokens, seconds)
    return times


def test_the_curve_is_read_with_straight_lines() -> None:
    """Between two sizes that were measured a step takes what the line between them says, beyond them in proportion."""
    times = learned((1, 0.02), (33, 0.1))
    assert times.of(1) == pytest.approx(0.02)
    assert times.of(17) == pytest.approx(0.06)
    assert times.of(66) == pytest.approx(0.2)


def test_a_longer_step_is_never_predicted_to_be_quicker() -> None:
    """Noise does not make the curve fall."""
    times = learned((1, 0.03), (8, 0.02))
    assert times.of(8) == pytest.approx(0.03)


def test_smaller_steps_than_were_measured_are_hoped_to_be_quicker() -> None:
    """So that they are tried; how long they take is known from then on."""
    times = learned((16, 0.032))
    assert times.of(8) == pytest.approx(0.024)
    times.add(8, 0.032)
    assert times.of(8) == pytest.approx(0.032)


def test_a_hiccup_is_no_new_speed() -> None:
    """One step that took a hundred times as long moves the mean a little."""
    times = learned((4, 0.01))
    times.add(4, 1.0)
    assert times.of(4) < 0.02


def test_a_hiccup_at_first_is_soon_forgotten() -> None:
    """The first step of a size may be the slow one: the next of that size shows it, and drafts are not off for long."""
    times = learned((4, 1.0))
    times.add(4, 0.01)
    assert times.of(4) == pytest.approx(0.01)


def test_a_trip_is_all_stages_and_the_hops() -> None:
    """Waiting in a queue is neither; what the head does with the outputs is stage 0's work."""
    times = RingTimes(2)
    assert not times.known
    reports = [Report(0, 0, 10_000, 0, 1, 1), Report(1, 5_000, 20_000, 1_000, 1, 1)]
    times.add(4, reports, 0.040, 0.003)
    assert times.slowest(4) == pytest.approx(0.021)
    assert times.trip(4) == pytest.approx(0.013 + 0.021 + 0.004)
