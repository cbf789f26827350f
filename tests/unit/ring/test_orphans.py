"""What waits for its request, and for how long."""

from __future__ import annotations

import math

from exo_node.ring.kv_account import KvAccount, Pool
from exo_node.ring.messages import Kept
from exo_node.ring.orphans import ORPHAN_S, Orphans

KEPT = (Kept(3, 8, 8), Kept(5, 6, 6, lost_from=1))


def test_the_one_whose_request_is_back_goes_last() -> None:
    """One that is not here is nobody's."""
    made = Orphans(KEPT, 2)
    made.claim(3)
    made.claim(9)
    assert [*made] == [5, 3]


def test_they_wait_for_so_long_from_the_first_question() -> None:
    """What was adopted waits for nothing."""
    made = Orphans(KEPT, 2)
    assert (made.expired(100.0), made.until) == ([], 100.0 + ORPHAN_S)
    assert made.adopt(5) == 1
    assert made.expired(100.0 + ORPHAN_S / 2) == []
    assert (made.expired(100.0 + ORPHAN_S), made.until) == ([3], math.inf)
    assert Orphans((), 0).expired(5.0) == []


def test_stages_that_lost_some_have_so_much_less() -> None:
    """Each those that it lost, less what was computed again; nobody lacks anything where nothing was lost."""
    account = KvAccount(Pool(4, 64, 8))
    for one in KEPT:
        account.keep(one)
    made = Orphans(KEPT, 2)
    assert [made.missing(stage, account) for stage in range(3)] == [(1, 8), (2, 14), (0, 0)]
    made.adopt(5)
    made.computed(5, 4)
    assert [made.missing(stage, account) for stage in range(3)] == [(1, 8), (1, 10), (0, 0)]
    assert (made.leave(5), made.leave(5), made.missing(1, account)) == (True, False, (1, 8))
    assert Orphans(KEPT, 0).missing(0, account) == (0, 0)
