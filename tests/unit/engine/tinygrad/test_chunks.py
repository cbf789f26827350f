from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exo_node.engine.tinygrad.chunks import SCORE_BYTES, chunk_lengths, group_rows, row_widths, split_row


def test_lengths_follow_the_longest_row_and_memory() -> None:
    """No chunk longer than a row can be, none whose attention scores are over their allowance; never fewer than one."""
    assert chunk_lengths(8, 1, is_cpu=False) == (16,)
    assert chunk_lengths(300, 1, is_cpu=False) == (16, 128)
    assert chunk_lengths(512, 1, is_cpu=False) == (16, 128, 512)
    assert chunk_lengths(512, SCORE_BYTES // 128, is_cpu=False) == (16, 128)
    assert chunk_lengths(512, SCORE_BYTES, is_cpu=False) == (16,)
    assert chunk_lengths(512, 1, is_cpu=True) == (4, 16)
    assert chunk_lengths(8, 1, is_cpu=True) == (4,)


def test_widths_follow_slots_and_memory() -> None:
    """No step that all slots together would leave half empty, none whose scores are over their allowance; always 1."""
    assert [row_widths(n, 1, is_cpu=True) for n in (1, 2, 3, 8)] == [(1,), (1, 2), (1, 2, 4), (1, 2, 4)]
    assert [row_widths(n, 1, is_cpu=False) for n in (1, 3, 8, 9)] == [(1,), (1, 4), (1, 4), (1, 4, 16)]
    assert row_widths(16, SCORE_BYTES // 8, is_cpu=False) == (1, 4)


@given(st.integers(1, 2000))
def test_split_covers_the_row(length: int) -> None:
    """The pieces add up, none is over the longest chunk, and only the last may be padded."""
    chunks = (16, 128)
    pieces = split_row(length, chunks)
    assert length == sum(pieces)
    assert all(piece in chunks for piece in pieces[:-1])
    assert 1 <= pieces[-1] <= 128


@given(st.integers(1, 2000), st.integers(0, 5000), st.integers(200, 900))
def test_no_piece_goes_over_the_end_of_a_ring(length: int, position: int, ring: int) -> None:
    """The pieces add up as ever, and each lies within the ring."""
    pieces = split_row(length, (16, 128), position, ring)
    assert length == sum(pieces) and min(pieces) > 0 and max(pieces) <= 128
    for piece in pieces:
        assert position % ring + piece <= ring
        position += piece


@given(st.lists(st.integers(0, 5000), max_size=40))
def test_groups_take_rows_of_like_length(positions: list[int]) -> None:
    """Every row is in one step, none is too wide, and no row runs over more keys than the next step's shortest has."""
    groups = group_rows(positions, (1, 2, 4))
    assert sorted(i for group in groups for i in group) == list(range(len(positions)))
    assert all(1 <= len(group) <= 4 for group in groups)
    longest = [max(positions[i] for i in group) for group in groups]
    assert all(positions[i] >= longest[n] for n, group in enumerate(groups[1:]) for i in group)
