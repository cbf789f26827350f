"""What a stage can send again."""

from __future__ import annotations

import numpy as np

from exo_node.ring.boundary_log import BoundaryLog
from exo_node.ring.messages import Copy, Drop, Rename


def log(most_bytes: int = 1000) -> BoundaryLog:
    made = BoundaryLog(most_bytes)
    for sequence, text in ((1, b"aabbccdd"), (2, b"xxyy")):
        made.write(sequence, 0, memoryview(text), 2)
    return made


def read(made: BoundaryLog, sequence: int, position: int, length: int) -> bytes | None:
    found = made.read(sequence, position, length)
    return None if found is None else bytes(found)


def test_what_was_written_is_read_again() -> None:
    """From any token on, no further than was written; a later row replaces what it rolls back."""
    made = log()
    made.write(1, 3, memoryview(b"eeff"), 2)
    assert (made.length(1), made.n_bytes) == (5, 14)
    assert (read(made, 1, 2, 3), read(made, 1, 3, 3), read(made, 3, 0, 1)) == (b"cceeff", None, None)


def test_a_sequence_with_a_gap_is_not_held() -> None:
    """Neither one whose beginning was never written."""
    made = log()
    made.write(1, 5, memoryview(b"ee"), 2)
    made.write(3, 1, memoryview(b"ee"), 2)
    assert (made.length(1), made.length(3), made.n_bytes) == (0, 0, 4)


def test_it_follows_what_becomes_of_sequences() -> None:
    """A copy and a rename hold as much as they are of; what is not held whole is not held."""
    made = log()
    made.follow((Copy(3, 1, 2), Rename(4, 2, 1), Drop(1), Copy(5, 4, 2)))
    assert [made.length(one) for one in range(1, 6)] == [0, 0, 2, 1, 0]
    assert (read(made, 3, 0, 2), made.n_bytes) == (b"aabb", 6)


def test_what_is_kept_over_an_epoch_is_cut() -> None:
    """And all else forgotten."""
    made = log()
    made.keep({1: 3, 9: 1})
    assert (made.length(1), made.length(2), made.n_bytes) == (3, 0, 6)


def test_what_is_logged_can_travel_in_another_dtype() -> None:
    """A new neighbour may compute in another one: the same numbers, where they have them."""
    made = BoundaryLog()
    numbers = np.asarray([1.0, -2.5, 0.15625, 3.0], np.float32)
    made.write(1, 0, memoryview((numbers.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()), 4)
    made.recast("bfloat16", "float32")
    assert (made.length(1), made.n_bytes, read(made, 1, 0, 2)) == (2, 16, numbers.tobytes())
    made.recast("float32", "float16")
    assert (made.length(1), read(made, 1, 1, 1)) == (2, numbers[2:].astype("<f2").tobytes())


def test_the_longest_unwritten_goes_where_there_is_too_much() -> None:
    """As a whole: half of it would be of no use."""
    made = log(13)
    made.write(1, 4, memoryview(b"ee"), 2)
    assert (made.length(1), made.length(2), made.n_bytes) == (5, 0, 10)
    made.write(2, 0, memoryview(b"aabbccddeeffgg"), 2)
    assert (made.length(1), made.length(2), made.n_bytes) == (0, 0, 0)
