"""The formulas of the scheduler."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from exo_node.ring import scheduler
from exo_node.ring.messages import Report
from exo_node.ring.scheduler import (
    GAP,
    LEAST_SLICE,
    Budget,
    chunk_length,
    decode_share,
    draft_depth,
    micro_batches,
    slice_budget,
)
from exo_node.ring.step_times import RingTimes


def test_the_examples_in_the_docstrings_hold() -> None:
    """Docstrings are run."""
    assert doctest.testmod(scheduler).failed == 0


@given(st.integers(1, 5000), st.integers(1, 512))
def test_chunks_cover_a_prompt_exactly(prefill: int, max_chunk: int) -> None:
    """Chunks are never empty nor too long, end at multiples of the chunk size, and together are the prompt."""
    sent = 0
    while sent < prefill:
        length = chunk_length(sent, prefill, max_chunk)
        assert 0 < length <= max_chunk
        sent += length
        assert sent == prefill or sent % max_chunk == 0


@given(st.integers(1, 200), st.integers(1, 9))
def test_every_sequence_gets_its_turn(n_decoding: int, n_stages: int) -> None:
    """As many micro-batches as stages hold all decoding sequences."""
    assert decode_share(n_decoding, n_stages) * n_stages >= n_decoding


def test_a_ring_of_one_has_one_step_in_flight() -> None:
    """A longer ring keeps every stage busy and one step waiting."""
    assert [Budget.of(n).max_steps for n in (1, 2, 3, 5)] == [1, 3, 4, 6]


def ring(n_stages: int, *points: tuple[int, float], hop: float = 0.0) -> RingTimes:
    """A ring whose stages all take these seconds for so many tokens."""
    times = RingTimes(n_stages)
    for tokens, seconds in points:
        reports = [Report(stage, 0, round(seconds * 1e6), 0, 1, 1) for stage in range(n_stages)]
        times.add(tokens, reports, n_stages * (seconds + hop), 0.0)
    return times


def test_a_ring_whose_stages_compute_gets_a_micro_batch_for_each_and_its_hops() -> None:
    """m = T / s: as many as keep the slowest stage busy, more where the wire is long."""
    points = [(rows, 0.002 * rows) for rows in (1, 2, 4, 8, 16, 32)]
    assert micro_batches(30, ring(3, *points)) == 3
    assert micro_batches(30, ring(3, *points, hop=0.02)) > 4
    assert micro_batches(30, ring(1, *points)) == 1


def test_where_a_step_costs_the_same_whatever_its_rows_the_fewest_do() -> None:
    """Reading weights twice for half the rows each gains nothing."""
    assert micro_batches(16, ring(2, *[(rows, 0.02) for rows in (1, 4, 8, 16)])) == 1


def test_until_the_times_are_known_every_stage_has_one() -> None:
    """But never more micro-batches than sequences."""
    assert [micro_batches(n, RingTimes(3)) for n in (0, 1, 2, 9)] == [1, 1, 2, 3]


def test_a_slice_makes_a_step_not_quite_twice_as_long() -> None:
    """Beside decode rows; alone it is a whole chunk, and never nothing."""
    times = ring(1, (8, 0.02), (64, 0.08), (256, 0.3))
    assert slice_budget(0, 256, times) == 256
    assert times.slowest(8 + slice_budget(8, 256, times)) <= GAP * 0.02 + 1e-9
    assert slice_budget(8, 256, times) > 8
    assert slice_budget(8, 256, ring(1, (8, 0.02), (9, 0.9))) == LEAST_SLICE


def test_drafts_pay_where_a_step_waits_for_memory_or_the_wire() -> None:
    """Deeper the surer they are and the less a token costs; none where every token costs its share."""
    flat, steep = ring(1, *[(n, 0.02) for n in (1, 4, 16)]), ring(1, *[(n, 0.02 * n) for n in (1, 4, 16)])
    assert draft_depth(0.9, 1, 8, flat) == 8
    assert draft_depth(0.9, 1, 8, steep) == 0
    assert draft_depth(0.9, 1, 8, ring(1, *[(n, 0.02 * n) for n in (1, 4, 16)], hop=0.2)) > 2
