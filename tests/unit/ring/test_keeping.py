"""What every stage can keep."""

from __future__ import annotations

from exo_node.ring.keeping import common_kept
from exo_node.ring.kv_account import Pool
from exo_node.ring.messages import Kept


def test_what_all_hold_is_kept_as_far_as_all_hold_it() -> None:
    """A sequence that one stage has not got is lost; the shortest decides; no stage, nothing kept."""
    stages = [[Kept(1, 5, 5), Kept(2, 9, 12)], [Kept(2, 8, 8), Kept(3, 1, 1)]]
    assert common_kept(stages, Pool(4, 64, 8)) == (Kept(2, 8, 12),)
    assert common_kept([], Pool(4, 64, 8)) == ()
    assert common_kept([stages[0], []], Pool(4, 64, 8)) == ()


def test_what_one_stage_could_not_cut_so_far_is_left_out() -> None:
    """Unless there is nothing to cut: then it may be kept whatever it once held."""
    pool = Pool(4, 64, 8, rollback_depth=2)
    assert common_kept([[Kept(1, 9, 9)], [Kept(1, 7, 7)]], pool) == (Kept(1, 7, 9),)
    assert common_kept([[Kept(1, 9, 9)], [Kept(1, 6, 6)]], pool) == ()
    assert common_kept([[Kept(1, 4, 9)], [Kept(1, 4, 8)]], pool) == (Kept(1, 4, 9),)
