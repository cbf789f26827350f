"""What every stage can keep."""

from __future__ import annotations

import pytest

from exo_node.errors import InvalidRequest
from exo_node.ring.keeping import common_kept, kept_message, read_kept
from exo_node.ring.messages import Kept


def test_what_all_hold_is_kept_as_far_as_all_hold_it() -> None:
    """A sequence that one stage has not got is lost; the shortest decides; no stage, nothing kept."""
    stages = [[Kept(1, 5, 5), Kept(2, 9, 12)], [Kept(2, 8, 8), Kept(3, 1, 1)]]
    assert common_kept(stages, None, 0) == (Kept(2, 8, 12),)
    assert common_kept([], None, 0) == ()
    assert common_kept([stages[0], []], None, 0) == ()


def test_what_one_stage_could_not_cut_so_far_is_left_out() -> None:
    """Unless there is nothing to cut: then it may be kept whatever it once held."""
    assert common_kept([[Kept(1, 9, 9)], [Kept(1, 7, 7)]], 2, 0) == (Kept(1, 7, 9),)
    assert common_kept([[Kept(1, 9, 9)], [Kept(1, 6, 6)]], 2, 0) == ()
    assert common_kept([[Kept(1, 4, 9)], [Kept(1, 4, 8)]], 2, 0) == (Kept(1, 4, 9),)
    assert common_kept([[Kept(1, 9, 9)], [Kept(1, 1, 1)]], 2, 9) == (Kept(1, 1, 9),)


def test_what_is_kept_survives_the_wire() -> None:
    """Each sequence with its length and the most that it has held."""
    kept = (Kept(1, 4, 9), Kept(7, 2, 2))
    assert read_kept([kept_message(one) for one in kept]) == kept


@pytest.mark.parametrize("kept", [[Kept(2, 1, 1), Kept(1, 1, 1)], [Kept(0, 1, 1)], [Kept(1, 0, 1)], [Kept(1, 2, 1)]])
def test_what_cannot_be_kept_is_refused(kept: list[Kept]) -> None:
    """Ids out of order, nothing of a sequence, more of it than it ever held."""
    with pytest.raises(InvalidRequest, match="to keep"):
        read_kept([kept_message(one) for one in kept])
