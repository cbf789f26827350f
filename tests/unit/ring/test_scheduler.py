"""The formulas of the scheduler."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from exo_node.ring import scheduler
from exo_node.ring.scheduler import Budget, chunk_length, decode_share


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
