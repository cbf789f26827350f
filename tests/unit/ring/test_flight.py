"""The account of the steps under way: what is counted, and what breaks the ring."""

from __future__ import annotations

import pytest

from exo_node.errors import RingBroken
from exo_node.ring.flight import Flight, Flown
from exo_node.ring.messages import Report


def flown(n_tokens: int = 3, *, decodes: bool = True, first: int = 8) -> Flown:
    return Flown((), ((1, first), (1, 8)), n_tokens * 16, n_tokens, decodes, 0.0)


def report(stage: int, cached_tokens: int = 8) -> Report:
    return Report(stage, 0, 0, 0, 1, cached_tokens)


def test_what_is_under_way_is_counted_until_it_is_home() -> None:
    """Bytes and steps with decode rows rise with each step sent and fall with each that lands, the oldest first."""
    flight = Flight(2)
    flight.send(flown(3))
    flight.send(flown(5, decodes=False))
    assert (len(flight), flight.newest, flight.n_bytes, flight.decode_steps) == (2, 2, 128, 1)
    assert flight.land(1, [report(0), report(1)]).n_tokens == 3
    assert (len(flight), flight.home, flight.home_tokens, flight.n_bytes, flight.decode_steps) == (1, 1, 3, 80, 0)


@pytest.mark.parametrize(
    ("number", "reports", "said"),
    [
        (2, [report(0), report(1)], "step 2 came home where step 1 was due"),
        (1, [report(0)], r"reported by stages \[0\] of 2"),
        (1, [report(1), report(0)], r"reported by stages \[1, 0\] of 2"),
        (1, [report(0), report(1, 9)], "stage 1 holds 1 sequences with 9 tokens, the head counts 1 with 8"),
    ],
)
def test_what_was_not_sent_so_breaks_the_ring(number: int, reports: list[Report], said: str) -> None:
    """A step out of turn, a stage left out or out of order, a pool that holds something else."""
    flight = Flight(2)
    flight.send(flown())
    with pytest.raises(RingBroken, match=said):
        flight.land(number, reports)


def test_nothing_comes_home_after_the_end() -> None:
    """A cleared account has no step under way and takes none back."""
    flight = Flight(1)
    flight.send(flown())
    flight.clear()
    assert (len(flight), flight.n_bytes, flight.decode_steps) == (0, 0, 0)
    with pytest.raises(RingBroken):
        flight.land(1, [report(0)])


def test_every_stage_is_counted_by_itself() -> None:
    """After a loss some hold less than the others, and exactly so much."""
    flight = Flight(2)
    for _ in range(2):
        flight.send(flown(first=5))
    flight.land(1, [report(0, 5), report(1, 8)])
    with pytest.raises(RingBroken, match="stage 0 holds 1 sequences with 8 tokens, the head counts 1 with 5"):
        flight.land(2, [report(0, 8), report(1, 8)])
