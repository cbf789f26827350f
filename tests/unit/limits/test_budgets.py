"""Periods, rules and sums."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from exo_node.limits.budgets import RESERVED_S, Budget, Ledger, Period, SubjectKind, applying, period_key, seconds_left

NOON = 1795262400.0  # 2026-11-21 12:00 UTC


@dataclass(frozen=True)
class Rule:
    subject: tuple[SubjectKind, str]
    limit: float
    period: Period = "month"


def test_periods_are_utc() -> None:
    """Days and months are named and end in UTC, across the turn of a year too."""
    assert period_key("day", NOON) == "2026-11-21"
    assert period_key("month", NOON) == "2026-11"
    assert seconds_left("day", NOON) == 12 * 3600
    assert seconds_left("month", NOON) == 9.5 * 86400
    assert seconds_left("month", NOON + 31 * 86400) == (31 - 21.5) * 86400  # 22 December


def test_rules_that_apply() -> None:
    """A rule holds for its own subject, for each where it says *, and "all" for everything."""
    rules = [
        Rule(("all", ""), 9),
        Rule(("key", "k1"), 1),
        Rule(("user", "*"), 2, "day"),
        Rule(("provider", "openai"), 3),
    ]
    request = applying(rules, {"all": ("", "node"), "key": ("k1", "key one"), "user": ("bob", "user bob")})
    assert [(one.kind, one.subject, one.limit) for one in request] == [
        ("all", "", 9),
        ("key", "k1", 1),
        ("user", "bob", 2),
    ]
    assert applying(rules, {"provider": ("openai", "")})[0].limit == 3
    assert applying(rules, {"provider": ("groq", "")}) == []
    assert [one.kind for one in applying(rules, {"all": ("", ""), "key": ("k2", ""), "user": ("", "")})] == ["all"]


def test_refusal_counts_what_runs() -> None:
    """Spent, reserved and the request's cost must fit; free requests always do; of unknown cost while any is left."""
    ledger, budget = Ledger("a"), Budget("all", "", 1.0, "day", "node")
    assert ledger.overdrawn([budget], 1.0, 0.0, NOON) is None
    ledger.reserve([budget], "r1", 0.6, 0.0, NOON)
    over = ledger.overdrawn([budget], 0.5, 0.0, NOON)
    assert over is not None and over.used == 0.6 and over.wait_s == 12 * 3600
    assert ledger.overdrawn([budget], 0.4, 0.0, NOON) is None
    ledger.release([budget], "r1", NOON)
    ledger.spend("all", "", 1.0, NOON)
    assert ledger.overdrawn([budget], None, 0.0, NOON) is not None
    assert ledger.overdrawn([budget], 0.0, 0.0, NOON) is None
    assert ledger.overdrawn([budget], 0.5, 0.0, NOON + 86400) is None


def test_reservations_end() -> None:
    """A reservation that nobody settled holds money for an hour, not for ever."""
    ledger, budget = Ledger("a"), Budget("key", "k", 1.0, "month")
    ledger.reserve([budget], "r", 1.0, 0.0, NOON)
    assert ledger.used(budget, RESERVED_S - 1, NOON) == 1.0
    assert ledger.used(budget, RESERVED_S, NOON) == 0.0


def test_sums_of_nodes_add_up() -> None:
    """Sums of other nodes count beside ours; an older report of a node takes nothing back; past periods go."""
    ledger, budget = Ledger("a"), Budget("user", "bob", 1.0, "month")
    assert ledger.spend("user", "bob", 0.1, NOON) == [("2026-11-21", 0.1), ("2026-11", 0.1)]
    assert [usd for _, usd in ledger.spend("user", "bob", 0.2, NOON)] == [pytest.approx(0.3)] * 2
    ledger.learn([("user", "bob", "2026-11", "b", 0.5), ("user", "bob", "2026-11", "a", 0.1)])
    ledger.learn([("user", "bob", "2026-11", "b", 0.4)])
    assert ledger.used(budget, 0.0, NOON) == pytest.approx(0.8)
    assert ("user", "bob", "2026-11", "b", 0.5) in ledger.sums()
    ledger.forget(NOON + 15 * 86400)
    assert ledger.sums() == []


def test_what_redis_has_said_last_counts_on() -> None:
    """What all had spent then, and what this node has since, unless more is known from elsewhere; not both."""
    ledger, budget = Ledger("a"), Budget("all", "", 1.0, "month")
    ledger.spend("all", "", 0.1, NOON)
    ledger.hear(budget, 0.5, NOON)
    assert ledger.used(budget, 0.0, NOON) == 0.5
    ledger.spend("all", "", 0.1, NOON)
    ledger.learn([("all", "", "2026-11", "b", 0.3)])
    assert ledger.used(budget, 0.0, NOON) == 0.6
    ledger.learn([("all", "", "2026-11", "b", 0.7)])
    assert ledger.used(budget, 0.0, NOON) == 0.9
    ledger.hear(budget, 0.4, NOON)  # it has forgotten some
    assert ledger.used(budget, 0.0, NOON) == 0.9
    ledger.forget(NOON + 15 * 86400)
    assert ledger.used(budget, 0.0, NOON) == 0.0


def test_ten_thousand_tiny_costs_add_up_exactly() -> None:
    """No rounding piles up."""
    ledger, budget = Ledger("a"), Budget("all", "", 1.0, "day")
    for _ in range(10_000):
        ledger.spend("all", "", 0.0001, NOON)
    assert ledger.used(budget, 0.0, NOON) == 1.0


def test_users_are_hashed_in_scopes() -> None:
    """A scope, which may go to Redis, does not show a user's name."""
    assert "bob@example.org" not in Budget("user", "bob@example.org", 1.0, "day").scope(NOON)
