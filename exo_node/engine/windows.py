"""What a layer with a sliding window keeps of a sequence. Pure; every engine keeps to it.

When a windowed layer's memory of a slot is full, it forgets all but its window and `SLACK` tokens before that. So a
sequence that never held more than `kept_tokens` can be cut to any length, a longer one by `SLACK` from the most that it
ever held, and what a cut could leave can be copied. A context that is no longer is kept whole.
"""

from __future__ import annotations

SLACK = 256  # a draft needs less; the next turn of a chat may leave out or change the end of this one


def kept_tokens(window: int | None, context: int, max_chunk: int) -> int:
    """Tokens of one sequence that a layer keeps at most, of rows of `max_chunk` tokens at most.

    >>> kept_tokens(None, 8192, 256), kept_tokens(1024, 8192, 256), kept_tokens(4096, 4096, 256)
    (8192, 1535, 4096)
    """
    return context if window is None else min(context, window - 1 + SLACK + max_chunk)


def base_after(window: int, position: int) -> int:
    """The position of the first token that is still there when one forgets before a pass at `position`."""
    return position + 1 - window - SLACK


def reaches(base: int, window: int, length: int) -> bool:
    """Whether all that the token behind the first `length` may see is there, if `base` is the first that is."""
    return base == 0 or length + 1 - window >= base
