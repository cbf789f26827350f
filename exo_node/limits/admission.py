"""What the gate gives, what it decides by, and how it says no. Plain data and texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from exo_node.errors import BudgetExceeded, RateLimited
from exo_node.limits.budgets import Budget, BudgetRule, Overdrawn, SubjectKind
from exo_node.limits.rates import Rate, Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The configuration's limits. `models` by the asked name, `user` for each user by himself."""

    router: Rate = field(default_factory=Rate)
    models: Mapping[str, Rate] = field(default_factory=dict)
    user: Rate = field(default_factory=Rate)
    budgets: tuple[BudgetRule, ...] = ()


class Limited(Protocol):
    """A deployment as far as its limits go. `limited_as`: those of one name count in one."""

    @property
    def limited_as(self) -> str: ...

    @property
    def rpm(self) -> int | None: ...

    @property
    def tpm(self) -> int | None: ...

    @property
    def provider(self) -> str: ...

    @property
    def budget(self) -> Budget | None: ...


@dataclass(slots=True)
class Admission:
    """What a request (or, as a `Lease`, an external call) has taken, until it is settled once."""

    id: str
    scopes: tuple[str, ...]
    budgets: tuple[Budget, ...]
    subjects: tuple[tuple[SubjectKind, str], ...]  # who pays
    wall: float
    asked: bool = False  # Redis was asked for it, so that it must be told of its end, be it later
    settled: bool = False

    @property
    def reserved(self) -> list[str]:
        """The scopes of its budgets, as of when it was taken."""
        return [budget.scope(self.wall) for budget in self.budgets]


def payers(key_id: str, user: str) -> tuple[tuple[SubjectKind, str], ...]:
    """Whose sums a request counts in."""
    found: list[tuple[SubjectKind, str]] = [("all", "")]
    if key_id:
        found.append(("key", key_id))
    if user:
        found.append(("user", user))
    return tuple(found)


def rate_limited(refusal: Refusal, tokens: int) -> RateLimited:
    limit = refusal.limit
    most = limit.requests if refusal.what == "requests" else limit.tokens
    said = f"{limit.label} allows {most} {refusal.what} per minute"
    if refusal.wait_s is None:
        why = f": this request alone asks for {tokens}" if refusal.what == "tokens" else ""
        never = RateLimited(f"{said}{why}", code=f"{refusal.what}_rate_limit_exceeded")
        never.retryable = False  # there will never be room for it
        return never
    wait = max(refusal.wait_s, 0.001)
    return RateLimited(
        f"{said}; there is room again in {wait:.1f} s", code=f"{refusal.what}_rate_limit_exceeded", retry_after=wait
    )


def budget_exceeded(overdrawn: Overdrawn, cost: float | None) -> BudgetExceeded:
    budget = overdrawn.budget
    asked = f", and this request would cost about {cost:.6f}" if cost else ""
    return BudgetExceeded(
        f"the budget of {budget.label} is {budget.limit:g} USD per {budget.period}: {overdrawn.used:.6f} USD are spent "
        f"or in use{asked}",
        retry_after=overdrawn.wait_s,
    )
