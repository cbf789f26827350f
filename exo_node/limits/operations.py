"""The gate's operations on Redis (`redis_script`), as lists for JSON, and what their answers mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from exo_node.limits.admission import Admission
from exo_node.limits.budgets import NANO, Budget, Overdrawn, seconds_left, sums_scope
from exo_node.limits.rates import Limit, Refusal
from exo_node.limits.redis import RESTORED_AT_ONCE, Operation


def take(
    ident: str, tokens: int, limits: Iterable[Limit], budgets: Iterable[Budget], cost: float | None, wall: float
) -> Operation:
    """Take from all or from none. `cost` USD, None: not known."""
    rates = [
        [limit.scope, -1 if limit.requests is None else limit.requests, -1 if limit.tokens is None else limit.tokens]
        for limit in limits
    ]
    amount = -1 if cost is None else round(cost * NANO)
    money = [[b.scope(wall), b.scope(wall), round(b.limit * NANO), amount] for b in budgets]
    return ["take", ident, tokens, rates, money]


def spent_by_all(answer: list[Any], budgets: list[Budget]) -> list[tuple[Budget, float]]:
    """What the answer to `take` tells of the budgets' sums, in USD."""
    if answer[:1] == ["ok"]:
        return [(budget, nano / NANO) for budget, nano in zip(budgets, answer[1:], strict=True)]
    return [(budgets[answer[1]], answer[3] / NANO)] if answer[:1] == ["budget"] else []


def refused(answer: list[Any], limits: list[Limit], budgets: list[Budget], wall: float) -> Refusal | Overdrawn | None:
    """What `take` was refused by; None where it was not."""
    if answer[:1] in ([], ["ok"]):
        return None
    if answer[0] == "rate":
        wait = None if answer[3] < 0 else answer[3] / 1e6
        return Refusal(limits[answer[1]], answer[2], wait)
    budget = budgets[answer[1]]
    return Overdrawn(budget, answer[2] / NANO, seconds_left(budget.period, wall))


def settle(admission: Admission, tokens: int) -> Operation:
    return ["settle", admission.id, tokens, list(admission.scopes), admission.reserved]


def release(admission: Admission) -> Operation:
    return ["release", admission.id, list(admission.scopes), admission.reserved]


def cool(backend: str, for_s: float) -> Operation:
    return ["cool", backend, round(for_s * 1e6)]


def spent(sums: Iterable[tuple[str, str, str, str, float]]) -> Operation:
    """(kind, subject, period, node, USD) of each; they never make a known sum smaller."""
    return [
        "spent",
        [[sums_scope(kind, subject, period), node, round(usd * NANO)] for kind, subject, period, node, usd in sums],
    ]


def restore(windows: Iterable[tuple[str, list[tuple[str, float, int]]]]) -> list[Operation]:
    """This node's part of every window: (scope, [(id, age in seconds, amount)])."""
    operations: list[Operation] = []
    for scope, entries in windows:
        rows = [[ident, round(age * 1e6), tokens] for ident, age, tokens in entries]
        for start in range(0, len(rows), RESTORED_AT_ONCE):
            operations.append(["restore", scope, rows[start : start + RESTORED_AT_ONCE]])
    return operations
