"""Money: who has spent how much in this day or month, what is being spent right now, and who may spend more. Pure.

Periods are UTC's. Every node counts what it spent itself; a subject's sum is over all nodes that are known.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from exo_node.limits.rates import Windows

SubjectKind = Literal["provider", "deployment", "key", "user", "all"]
Period = Literal["day", "month"]
DAY_S = 86400  # of UTC's days; `time.time()` knows no leap seconds
RESERVED_S = 3600.0  # a reservation that nobody settled (a client that vanished with its node) ends after this long
NANO = 1_000_000_000  # sums are counted in whole billionths of a dollar: they add up the same everywhere
EACH = "*"  # a rule for every key, user or provider by itself


class BudgetRule(Protocol):
    """At most `limit` USD per `period` for `subject`."""

    @property
    def subject(self) -> tuple[SubjectKind, str]: ...

    @property
    def limit(self) -> float: ...

    @property
    def period(self) -> Period: ...


@dataclass(frozen=True, slots=True)
class Budget:
    """A rule that applies to a request. `label` names the subject for people."""

    kind: SubjectKind
    subject: str
    limit: float
    period: Period
    label: str = ""

    def period_key(self, wall: float) -> str:
        return period_key(self.period, wall)

    def scope(self, wall: float) -> str:
        return sums_scope(self.kind, self.subject, self.period_key(wall))


@dataclass(frozen=True, slots=True)
class Overdrawn:
    """A budget that has no room: USD spent and reserved, and the seconds until its period ends."""

    budget: Budget
    used: float
    wait_s: float


def period_key(period: Period, wall: float) -> str:
    """ "2026-11-21" or "2026-11" of `time.time()`."""
    return _period_key(period, int(wall // DAY_S))


@functools.lru_cache(16)  # asked several times a request
def _period_key(period: Period, day: int) -> str:
    moment = datetime.datetime.fromtimestamp(day * DAY_S, datetime.UTC)
    return moment.strftime("%Y-%m-%d" if period == "day" else "%Y-%m")


def hashed(user: str) -> str:
    """Users' names may be anything, mail addresses too: they are nobody's business in Redis."""
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def sums_scope(kind: str, subject: str, period: str) -> str:
    """The name of a subject's sum in a period."""
    return f"{kind}:{hashed(subject) if kind == 'user' else subject}:{period}"


def seconds_left(period: Period, wall: float) -> float:
    """Until the day or the month ends."""
    moment = datetime.datetime.fromtimestamp(wall, datetime.UTC)
    start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        end = start + datetime.timedelta(days=1)
    else:
        end = (start.replace(day=1) + datetime.timedelta(days=32)).replace(day=1)
    return (end - moment).total_seconds()


def applying(rules: Iterable[BudgetRule], subjects: Mapping[SubjectKind, tuple[str, str]]) -> list[Budget]:
    """The rules that hold for a request of these subjects: kind -> (id, label for people)."""
    found = []
    for rule in rules:
        kind, name = rule.subject
        subject, label = subjects.get(kind, ("", ""))
        if kind == "all" and kind in subjects:
            found.append(Budget(kind, "", rule.limit, rule.period, label))
        elif subject and name in (subject, EACH):
            found.append(Budget(kind, subject, rule.limit, rule.period, label))
    return found


def tightest(budgets: Iterable[Budget]) -> list[Budget]:
    """Of those for one subject and period the smallest: the others hold with it, and money is reserved once."""
    found: dict[tuple[SubjectKind, str, Period], Budget] = {}
    for budget in budgets:
        known = found.setdefault((budget.kind, budget.subject, budget.period), budget)
        if budget.limit < known.limit:
            found[budget.kind, budget.subject, budget.period] = budget
    return list(found.values())


class Ledger:
    """Sums of the running periods by subject and node, and what running requests have reserved."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._today = ""
        self._spent: dict[tuple[str, str, str], dict[str, int]] = {}  # (kind, subject, period) -> node -> nano-USD
        self._told: dict[tuple[str, str, str], tuple[int, int]] = {}  # what all have spent, and ours of it
        self._reserved = Windows(RESERVED_S)

    def hear(self, budget: Budget, usd: float, wall: float) -> None:
        """What all together have spent, as far as Redis knew just now: it holds while Redis cannot be asked."""
        key = (budget.kind, budget.subject, budget.period_key(wall))
        self._told[key] = (round(usd * NANO), self._spent.get(key, {}).get(self._node, 0))

    def learn(self, rows: Iterable[tuple[str, str, str, str, float]]) -> None:
        """Sums from elsewhere: (kind, subject, period, node, USD). They never make a known one smaller."""
        for kind, subject, period, node, usd in rows:
            sums = self._spent.setdefault((kind, subject, period), {})
            sums[node] = max(sums.get(node, 0), round(usd * NANO))

    def used(self, budget: Budget, now: float, wall: float) -> float:
        """USD spent and reserved."""
        key = (budget.kind, budget.subject, budget.period_key(wall))
        sums = self._spent.get(key, {})
        told, own = self._told.get(key, (0, 0))
        spent = max(sum(sums.values()), told + sums.get(self._node, 0) - own)  # the same money, counted twice
        return (spent + self._reserved.total(budget.scope(wall), now)) / NANO

    def overdrawn(self, budgets: Iterable[Budget], cost: float | None, now: float, wall: float) -> Overdrawn | None:
        """The budget that a request of `cost` USD would break.

        `cost` None: not known, so there must be something left. A request that costs nothing breaks no budget.
        """
        for budget in budgets:
            used = self.used(budget, now, wall)
            if (cost is None and used >= budget.limit) or (cost and round((used + cost - budget.limit) * NANO) > 0):
                return Overdrawn(budget, used, seconds_left(budget.period, wall))
        return None

    def reserve(self, budgets: Iterable[Budget], ident: str, cost: float, now: float, wall: float) -> None:
        self._reserved.add([budget.scope(wall) for budget in budgets], ident, round(cost * NANO), now)

    def release(self, budgets: Iterable[Budget], ident: str, wall: float) -> None:
        """`wall`: when the reservation was made."""
        self._reserved.release([budget.scope(wall) for budget in budgets], ident)

    def spend(self, kind: SubjectKind, subject: str, cost: float, wall: float) -> list[tuple[str, float]]:
        """Count what this node spent; (period key, this node's new sum in USD) of day and month."""
        if (today := period_key("day", wall)) != self._today:
            self._today = today
            self.forget(wall)
        told = []
        for period in ("day", "month"):
            key = period_key(period, wall)
            sums = self._spent.setdefault((kind, subject, key), {})
            sums[self._node] = sums.get(self._node, 0) + round(cost * NANO)
            told.append((key, sums[self._node] / NANO))
        return told

    def sums(self) -> list[tuple[str, str, str, str, float]]:
        """(kind, subject, period, node, USD) of everything known."""
        return [(*key, node, nano / NANO) for key, sums in self._spent.items() for node, nano in sums.items()]

    def forget(self, wall: float) -> None:
        """Drop the sums of periods that are over."""
        running = {period_key("day", wall), period_key("month", wall)}
        for known in (self._spent, self._told):
            for key in [key for key in known if key[2] not in running]:
                del known[key]
