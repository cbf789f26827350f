from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exo_node.engine.tinygrad.chunks import SCORE_BYTES, chunk_lengths, split_row


def test_lengths_follow_the_longest_row_and_memory() -> None:
    """No chunk longer than a row can be, none whose attention scores are over their allowance; never fewer than two."""
    assert chunk_lengths(8, 1, is_cpu=False) == (1, 16)
    assert chunk_lengths(300, 1, is_cpu=False) == (1, 16, 128)
    assert chunk_lengths(512, 1, is_cpu=False) == (1, 16, 128, 512)
    assert chunk_lengths(512, SCORE_BYTES // 128, is_cpu=False) == (1, 16, 128)
    assert chunk_lengths(512, SCORE_BYTES, is_cpu=False) == (1, 16)
    assert chunk_lengths(512, 1, is_cpu=True) == (1, 16)


@given(st.integers(1, 2000))
def test_split_covers_the_row(length: int) -> None:
    """The pieces add up, none is over the longest chunk, and only the last may be padded."""
    chunks = (1, 16, 128)
    pieces = split_row(length, chunks)
    assert length == sum(pieces)
    assert all(piece in chunks for piece in pieces[:-1])
    assert 1 <= pieces[-1] <= 128
