"""What Redis is asked and told; `integration/test_redis_script.py` runs it there."""

from __future__ import annotations

from exo_node.limits import operations
from exo_node.limits.budgets import Budget, Overdrawn
from exo_node.limits.rates import Limit, Refusal
from exo_node.limits.redis import RESTORED_AT_ONCE

NOON = 1795262400.0
LIMIT, BUDGET = Limit("key:k", 5, None, "k"), Budget("key", "k", 1.5, "day", "k")


def test_take_and_its_refusals() -> None:
    """Limits, budgets in billionths of a dollar, -1 for what is not limited or known; a refusal finds its limit."""
    scope = "key:k:2026-11-21"
    asked = operations.take("id", 7, [LIMIT], [BUDGET], None, NOON)
    assert asked == ["take", "id", 7, [["key:k", 5, -1]], [[scope, scope, 1_500_000_000, -1]]]
    assert operations.refused(["rate", 0, "requests", 2_000_000], [LIMIT], [], NOON) == Refusal(LIMIT, "requests", 2.0)
    assert operations.refused(["rate", 0, "tokens", -1], [LIMIT], [], NOON) == Refusal(LIMIT, "tokens", None)
    over = ["budget", 0, 1_000_000_000, 500_000_000]
    assert operations.refused(over, [], [BUDGET], NOON) == Overdrawn(BUDGET, 1.0, 12 * 3600)
    assert operations.spent_by_all(over, [BUDGET]) == [(BUDGET, 0.5)]
    for passed in ([], ["ok", 2_000_000_000]):
        assert operations.refused(passed, [LIMIT], [BUDGET], NOON) is None
    assert operations.spent_by_all(["ok", 2_000_000_000], [BUDGET]) == [(BUDGET, 2.0)]
    assert operations.spent_by_all(["rate", 0, "tokens", -1], [BUDGET]) == []


def test_what_is_restored_comes_in_pieces() -> None:
    """A window with many entries is told in several operations, ages in microseconds."""
    entries = [(str(i), 1.5, i) for i in range(RESTORED_AT_ONCE + 1)]
    first, second = operations.restore([("router", entries)])
    assert (len(first[2]), second) == (
        RESTORED_AT_ONCE,
        ["restore", "router", [[str(RESTORED_AT_ONCE), 1500000, RESTORED_AT_ONCE]]],
    )
