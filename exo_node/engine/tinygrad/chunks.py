"""Lengths of the compiled chunks, widths of the compiled decode steps, and how rows are cut and put into them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

# Few, because each costs a compilation. A CPU computes 16 tokens little faster than 4 times 4, which are what a draft's
# short rows need; elsewhere lengths are a factor of 8 apart: padding costs at most one short chunk's time.
CPU_LENGTHS = (4, 16)
ACCELERATOR_LENGTHS = (16, 128, 512)
# How many sequences get their next token together. From 4 rows on a CPU's time is multiplications, not memory: a step
# of 1, 2 and 4 rows takes 57, 79 and 135 ms (4 layers of the 1B shape), twice 4 rows 265.
CPU_WIDTHS = (1, 2, 4)
ACCELERATOR_WIDTHS = (1, 4, 16)
SCORE_BYTES = 256 << 20  # attention scores of one chunk: the one intermediate that grows with chunk times context


def chunk_lengths(max_chunk: int, score_bytes_per_token: int, *, is_cpu: bool) -> tuple[int, ...]:
    """Chunk lengths to compile, ascending: as `max_chunk` and the scores' memory allow, always the shortest."""
    first, *others = CPU_LENGTHS if is_cpu else ACCELERATOR_LENGTHS
    fitting = [n for n in others if n <= max_chunk and n * score_bytes_per_token <= SCORE_BYTES]
    return (first, *fitting)


def row_widths(slots: int, score_bytes_per_token: int, *, is_cpu: bool) -> tuple[int, ...]:
    """Widths to compile, ascending: none that would be over half empty with every slot in it, always 1."""
    widths = CPU_WIDTHS if is_cpu else ACCELERATOR_WIDTHS
    return (1, *(n for n in widths[1:] if n < 2 * slots and 2 * n * score_bytes_per_token <= SCORE_BYTES))


def split_row(length: int, chunks: Sequence[int], position: int = 0, ring: int | None = None) -> list[int]:
    """Cut a row of `length` tokens into pieces, each at most the longest chunk: as many of the longest as fit, then of
    the next; a rest shorter than the shortest chunk is one padded piece, a lone token a step of width 1. Of a row that
    goes over the end of a `ring` of so many places, what comes before it and what comes after is cut apart.

    The cut depends on length and position alone, so that the same row always meets the same kernels.
    """
    if ring is not None and 0 < (before := ring - position % ring) < length:
        rest = split_row(length - before, chunks, position + before, ring)
        return split_row(before, chunks) + rest
    pieces = []
    for chunk in sorted(chunks, reverse=True):
        while length >= chunk:
            pieces.append(chunk)
            length -= chunk
    if length:
        pieces.append(length)
    return pieces


def group_rows(positions: Sequence[int], widths: Sequence[int]) -> list[list[int]]:
    """Indices of `positions`, cut into steps of at most the largest width.

    All rows of a step run over as many keys as its longest row has, so rows of like length go together.
    """
    order = sorted(range(len(positions)), key=lambda i: (positions[i], i))
    return [order[at : at + widths[-1]] for at in range(0, len(order), widths[-1])]
