"""What every stage can keep."""

from __future__ import annotations

import pytest

from exo_node.errors import InvalidRequest
from exo_node.ring.keeping import kept_message, read_kept, surviving
from exo_node.ring.messages import Kept


def test_what_all_behind_the_loss_hold_is_kept_as_far_as_all_hold_it() -> None:
    """A sequence that one of them has not got is lost; the shortest decides; no stage, nothing kept."""
    stages = [[Kept(1, 5, 5), Kept(2, 9, 12)], [Kept(2, 8, 8), Kept(3, 1, 1)]]
    assert surviving([None, *stages], None, 0) == ((Kept(2, 8, 12),), 1)
    assert surviving([None, stages[0], None, stages[1]], None, 0) == ((Kept(2, 8, 8), Kept(3, 1, 1)), 3)
    assert surviving(stages, None, 0) == ((Kept(2, 8, 12),), 0)
    assert surviving([None, stages[0], []], None, 0) == ((), 1)
    assert surviving([None, None], None, 0) == ((), 2)


def test_what_one_stage_could_not_cut_so_far_is_left_out() -> None:
    """Unless there is nothing to cut: then it may be kept whatever it once held."""
    for first, second, depth, whole, kept in (
        (Kept(1, 9, 9), Kept(1, 7, 7), 2, 0, (Kept(1, 7, 9),)),
        (Kept(1, 9, 9), Kept(1, 6, 6), 2, 0, ()),
        (Kept(1, 4, 9), Kept(1, 4, 8), 2, 0, (Kept(1, 4, 9),)),
        (Kept(1, 9, 9), Kept(1, 1, 1), 2, 9, (Kept(1, 1, 9),)),
    ):
        assert surviving([[first], [second]], depth, whole) == (kept, 0)


def test_what_the_stage_before_the_loss_has_logged_need_not_be_computed_before_it() -> None:
    """All of the sequence, and held by all before; else those behind the loss still keep it, if there are any."""
    behind, before = [Kept(1, 8, 8), Kept(2, 8, 8)], [Kept(1, 9, 9, logged=9), Kept(2, 9, 9, logged=7)]
    assert surviving([before, None, behind], None, 0) == ((Kept(1, 8, 9, lost_from=1), Kept(2, 8, 8)), 2)
    assert surviving([before, None], None, 0) == ((Kept(1, 9, 9, lost_from=1),), 2)
    assert surviving([[Kept(1, 9, 9)], before, None, behind[:1]], None, 0) == ((Kept(1, 8, 9, lost_from=2),), 3)
    assert surviving([[], before, None, behind[:1]], None, 0) == ((Kept(1, 8, 8),), 3)
    assert surviving([before, None, [], None, behind], None, 0)[0][0] == Kept(1, 8, 9, lost_from=1)


def test_what_is_kept_survives_the_wire() -> None:
    """Each sequence with its length and the most that it has held."""
    kept = (Kept(1, 4, 9, 3, 2), Kept(7, 2, 2))
    assert read_kept([kept_message(one) for one in kept]) == kept


@pytest.mark.parametrize("kept", [[Kept(2, 1, 1), Kept(1, 1, 1)], [Kept(0, 1, 1)], [Kept(1, 0, 1)], [Kept(1, 2, 1)]])
def test_what_cannot_be_kept_is_refused(kept: list[Kept]) -> None:
    """Ids out of order, nothing of a sequence, more of it than it ever held."""
    with pytest.raises(InvalidRequest, match="to keep"):
        read_kept([kept_message(one) for one in kept])
