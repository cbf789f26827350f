"""A deployment as the limits' gate sees it."""

from __future__ import annotations

from dataclasses import dataclass

from exo_node.limits.budgets import Budget


@dataclass(frozen=True)
class Place:
    limited_as: str
    rpm: int | None = None
    tpm: int | None = None
    provider: str = ""
    budget: Budget | None = None
