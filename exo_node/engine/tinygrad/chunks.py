"""Lengths of the compiled chunks and how a row is cut into them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

# Few, because each costs a compilation; a factor of 8 apart, because padding costs at most one short chunk's time.
# A CPU computes 128 tokens no faster than 8 times 16 (1B shape: 20 ms a token and layer pair either way).
CPU_LENGTHS = (1, 16)
ACCELERATOR_LENGTHS = (1, 16, 128, 512)
SCORE_BYTES = 256 << 20  # attention scores of one chunk: the one intermediate that grows with chunk times context


def chunk_lengths(max_chunk: int, score_bytes_per_token: int, *, is_cpu: bool) -> tuple[int, ...]:
    """Chunk lengths to compile, ascending: as `max_chunk` and the scores' memory allow, always the first two."""
    lengths = CPU_LENGTHS if is_cpu else ACCELERATOR_LENGTHS
    fitting = [n for n in lengths[2:] if n <= max_chunk and n * score_bytes_per_token <= SCORE_BYTES]
    return (*lengths[:2], *fitting)


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
