"""How many repeats this node may send: retries must not multiply an overload (Finagle's RetryBudget; AWS's jitter)."""

from __future__ import annotations

from collections import deque

TTL_S = 10.0
PERCENT = 0.2  # repeats per first try
MIN_PER_S = 10.0  # repeats that are always allowed, so that a quiet node may retry at all


class RetryBudget:
    """Deposits and withdrawals of the last 10 s: balance = 20 % of the first tries + 10/s - the repeats."""

    def __init__(self, *, percent: float = PERCENT, min_per_s: float = MIN_PER_S, ttl_s: float = TTL_S) -> None:
        self._percent, self._reserve, self._ttl = percent, min_per_s * ttl_s, ttl_s
        self._slots: deque[list[float]] = deque()  # [second, deposits, withdrawals]
        self._deposits = 0.0
        self._withdrawals = 0.0

    def deposit(self, now: float) -> None:
        """A request came (its first try, not its repeats)."""
        self._slot(now)[1] += 1
        self._deposits += 1

    def withdraw(self, now: float) -> bool:
        """Take one repeat; False: there is none left now."""
        slot = self._slot(now)
        if self.balance(now) < 1:
            return False
        slot[2] += 1
        self._withdrawals += 1
        return True

    def balance(self, now: float) -> float:
        """Repeats left."""
        self._expire(now)
        return self._percent * self._deposits + self._reserve - self._withdrawals

    def _slot(self, now: float) -> list[float]:
        self._expire(now)
        second = float(int(now))
        if not self._slots or self._slots[-1][0] != second:
            self._slots.append([second, 0.0, 0.0])
        return self._slots[-1]

    def _expire(self, now: float) -> None:
        while self._slots and self._slots[0][0] <= now - self._ttl - 1:
            _, deposits, withdrawals = self._slots.popleft()
            self._deposits -= deposits
            self._withdrawals -= withdrawals
