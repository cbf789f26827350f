"""Lengths of the compiled chunks and how a row is cut into them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

# Few, because each costs a compilation; a factor of 8 apart, because padding costs at most one short chunk's time.
_LENGTHS = (1, 16, 128, 512)
SCORE_BYTES = 64 << 20  # attention scores of one chunk: the one intermediate that grows with chunk times context


def chunk_lengths(max_chunk: int, score_bytes_per_token: int) -> tuple[int, ...]:
    """Chunk lengths to compile, ascending: 1 and those that `max_chunk` and the scores' memory allow, at least two."""
    fitting = [n for n in _LENGTHS[2:] if n <= max_chunk and n * score_bytes_per_token <= SCORE_BYTES]
    return (*_LENGTHS[:2], *fitting)


def split_row(length: int, chunks: Sequence[int]) -> list[int]:
    """Cut a row of `length` tokens into pieces, each at most the longest chunk: as many of the longest as fit, then of
    the next; a rest shorter than the second shortest chunk is one padded piece.

    The cut depends on the length alone, so that the same row always meets the same kernels.
    """
    pieces = []
    for chunk in sorted(chunks[1:], reverse=True):
        while length >= chunk:
            pieces.append(chunk)
            length -= chunk
    if length:
        pieces.append(length)
    return pieces
