"""Sliding windows that count requests and amounts exactly: never more than the limit in any stretch of a window. Pure.

A log of every entry, not a bucket: a bucket of N that refills lets nearly 2 N through in one window.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

MINUTE_S = 60.0
SWEEP_EVERY = 1024  # entries taken between two looks for scopes that nobody uses any more

What = Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests and tokens per minute; None: no limit."""

    rpm: int | None = None
    tpm: int | None = None

    def __bool__(self) -> bool:
        return self.rpm is not None or self.tpm is not None


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `requests` entries, and entries of `tokens` in sum, within `MINUTE_S` (None: unlimited).

    `scope` keys the window ("key:ID"); `label` names it for people ("API key 'ci'").
    """

    scope: str
    requests: int | None
    tokens: int | None
    label: str = ""

    def __bool__(self) -> bool:
        return self.requests is not None or self.tokens is not None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which limit had no room, of what, and the seconds until it has (None: never, the request alone is larger)."""

    limit: Limit
    what: What
    wait_s: float | None


@dataclass(slots=True)
class _Window:
    entries: OrderedDict[str, tuple[float, int]] = field(default_factory=OrderedDict)  # id -> (time, amount)
    total: int = 0


class Windows:
    """Windows by scope. `now` is any monotonic clock in seconds; it must not run backwards."""

    def __init__(self, length_s: float = MINUTE_S) -> None:
        self._length_s = length_s
        self._windows: dict[str, _Window] = {}
        self._taken = 0

    def refusal(self, limits: Iterable[Limit], tokens: int, now: float) -> Refusal | None:
        """The limit that has no room for one more request of `tokens`; the one with the longest wait of several."""
        worst: Refusal | None = None
        for limit in limits:
            window = self._pruned(limit.scope, now)
            for found in self._refusals(limit, window, tokens, now):
                if worst is None or found.wait_s is None or (worst.wait_s is not None and found.wait_s > worst.wait_s):
                    worst = found
        return worst

    def add(self, scopes: Iterable[str], ident: str, tokens: int, now: float) -> None:
        """Enter a request everywhere, room or not."""
        for scope in scopes:
            window = self._windows.setdefault(scope, _Window())
            window.entries[ident] = (now, tokens)
            window.total += tokens
        self._taken += 1
        if self._taken % SWEEP_EVERY == 0:
            self._sweep(now)

    def take(self, limits: Iterable[Limit], ident: str, tokens: int, now: float) -> Refusal | None:
        """Enter the request in all windows, or in none and say why. `ident` is unique."""
        limits = tuple(limits)
        refusal = self.refusal(limits, tokens, now)
        if refusal is None:
            self.add((limit.scope for limit in limits), ident, tokens, now)
        return refusal

    def settle(self, scopes: Iterable[str], ident: str, tokens: int) -> None:
        """The real amount of an entry, in place of the reserved one. No effect once the entry has left its window."""
        for scope in scopes:
            window = self._windows.get(scope)
            if window is not None and ident in window.entries:
                at, reserved = window.entries[ident]
                window.entries[ident] = (at, tokens)
                window.total += tokens - reserved

    def release(self, scopes: Iterable[str], ident: str) -> None:
        """Take an entry out, as if it had never been."""
        for scope in scopes:
            window = self._windows.get(scope)
            if window is not None and ident in window.entries:
                window.total -= window.entries.pop(ident)[1]

    def total(self, scope: str, now: float) -> int:
        window = self._pruned(scope, now)
        return 0 if window is None else window.total

    def count(self, scope: str, now: float) -> int:
        window = self._pruned(scope, now)
        return 0 if window is None else len(window.entries)

    def entries(self, now: float) -> Iterator[tuple[str, list[tuple[str, float, int]]]]:
        """(scope, [(id, age in seconds, amount)]) of everything that still counts."""
        for scope in list(self._windows):
            window = self._pruned(scope, now)
            if window is not None:
                yield scope, [(ident, now - at, amount) for ident, (at, amount) in window.entries.items()]

    def _refusals(self, limit: Limit, window: _Window | None, tokens: int, now: float) -> Iterator[Refusal]:
        count, total = (0, 0) if window is None else (len(window.entries), window.total)
        if limit.requests is not None and count + 1 > limit.requests:
            wait = self._wait(window, count + 1 - limit.requests, None, now) if limit.requests > 0 else None
            yield Refusal(limit, "requests", wait)
        if limit.tokens is not None and total + tokens > limit.tokens:
            # What is counted already may be over the limit (an answer was longer than was thought): then all must wait.
            fits = tokens <= limit.tokens
            yield Refusal(
                limit, "tokens", self._wait(window, None, total + tokens - limit.tokens, now) if fits else None
            )

    def _wait(self, window: _Window | None, entries: int | None, tokens: int | None, now: float) -> float:
        """Seconds until `entries` of the oldest entries, or those with `tokens` in sum, have left the window."""
        freed = 0
        for index, (at, amount) in enumerate(window.entries.values() if window is not None else (), 1):
            freed += amount
            if index == entries or (tokens is not None and freed >= tokens):
                return max(0.0, at + self._length_s - now)
        return self._length_s

    def _pruned(self, scope: str, now: float) -> _Window | None:
        window = self._windows.get(scope)
        if window is None:
            return None
        entries = window.entries
        while entries:
            ident, (at, amount) = next(iter(entries.items()))
            if now - at < self._length_s:
                break
            del entries[ident]
            window.total -= amount
        if not entries:
            del self._windows[scope]
            return None
        return window

    def _sweep(self, now: float) -> None:
        for scope in list(self._windows):
            self._pruned(scope, now)
