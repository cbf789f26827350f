"""The circuit breaker: who is not asked for a while after failures, and how it comes back. Pure, `now` comes in.

Per backend closed -> open (ejected for cooldown x count) -> half open (exactly one real request) -> closed, or open
again for longer. Envoy's outlier detection and Finagle's failure accrual are the models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from exo_node.routing.call import UpstreamError
from exo_node.routing.plan import Candidate

ALLOWED_FAILS = 5  # in a row (Envoy's consecutive_5xx)
COOLDOWN_S = 5.0  # LiteLLM's default; the first ejection
MAX_COUNT = 3  # ejections grow to cooldown x 3: 15 s by default, so that who recovers is back within 30 s
KEY_COOLDOWN_S = 30.0  # a refused key or an unknown model does not heal by itself
WINDOW_S = 10.0  # of the error rate: the last one to two windows
MIN_VOLUME = 10
ERROR_RATE = 0.5
REMEMBERED = 1024  # backends; more are asked only by someone who tries names out
TRIAL_S = 60.0  # a trial that nobody reported on is given up after this long
NOT_ITS_FAULT = frozenset({"bad_request", "content_filter", "context", "cancelled"})
AT_ONCE = frozenset({"auth", "not_found", "rate_limited"})

State = Literal["closed", "open", "half_open"]


@dataclass(slots=True)
class _Circuit:
    is_open: bool = False
    until: float = -math.inf
    count: int = 0  # ejections without a healthy spell between them
    in_row: int = 0
    trial: float = -math.inf  # when the one request of half open was sent
    cause: str = ""
    closed_at: float = -math.inf
    length: float = 0.0
    begun: float = -math.inf  # of the current window
    now_ok: int = 0
    now_bad: int = 0
    old_ok: int = 0
    old_bad: int = 0


class Breaker:
    """All circuits of a node. `state` implements `plan.BreakerView`."""

    def __init__(
        self, *, allowed_fails: int = ALLOWED_FAILS, cooldown_s: float = COOLDOWN_S, min_volume: int = MIN_VOLUME
    ) -> None:
        self._allowed, self._cooldown, self._min_volume = allowed_fails, cooldown_s, min_volume
        self._circuits: dict[str, _Circuit] = {}

    def state(self, backend: str, now: float) -> tuple[State, float]:
        """(state, seconds until an open one may be tried). An open one whose trial is on its way stays open."""
        c = self._circuits.get(backend)
        if c is None or not c.is_open:
            return "closed", 0.0
        if now < c.until:
            return "open", c.until - now
        if now - c.trial < TRIAL_S:
            return "open", TRIAL_S - (now - c.trial)
        return "half_open", 0.0

    def why(self, backend: str) -> str:
        """What opened it ("" when closed)."""
        c = self._circuits.get(backend)
        return c.cause if c is not None and c.is_open else ""

    def begin(self, candidate: Candidate, now: float) -> bool:
        """The caller is about to ask. Closed: True. Half open: the first caller's is the trial. Open: False.

        Where every backend is open, the policy offers the least bad, which may be asked all the same.
        """
        state, _ = self.state(candidate.backend, now)
        if state == "half_open":
            self._circuits[candidate.backend].trial = now
        return state != "open"

    def released(self, candidate: Candidate, begun: float) -> None:
        """The attempt of the `begin` at `begun` ended without a verdict (cancelled): if it was the trial, another may
        be it now."""
        c = self._circuits.get(candidate.backend)
        if c is not None and c.trial == begun:
            c.trial = -math.inf

    def answering(self, candidate: Candidate, now: float) -> None:
        """Its first content came: nobody waits for the end of a trial's answer, which may take minutes. The next
        failure opens it again as another one in the row."""
        c = self._circuits.get(candidate.backend)
        if c is not None and c.is_open and now >= c.until:
            self._close(c, now)

    def succeeded(self, candidate: Candidate, now: float) -> None:
        """It answered."""
        c = self._of(candidate.backend)
        self._rotate(c, now)
        c.now_ok += 1
        c.in_row = 0
        if c.is_open:
            self._close(c, now)
        elif c.count and now - c.closed_at > 2 * c.length:
            c.count, c.closed_at = c.count - 1, now

    def failed(self, candidate: Candidate, error: UpstreamError, now: float) -> None:
        """It failed. The request's own faults do not count (they are `released`); `Retry-After` never shortens an
        ejection."""
        if error.cause in NOT_ITS_FAULT:
            return
        c = self._of(candidate.backend)
        self._rotate(c, now)
        c.now_bad += 1
        c.in_row += 1
        was_trial = c.is_open and now >= c.until
        c.trial = -math.inf
        allowed = max(1, self._allowed if candidate.allowed_fails is None else candidate.allowed_fails)
        bad = c.now_bad + c.old_bad
        volume = bad + c.now_ok + c.old_ok
        rate = volume >= max(self._min_volume, allowed) and bad > ERROR_RATE * volume
        if not c.is_open or was_trial:
            if not (was_trial or c.in_row >= allowed or rate or error.cause in AT_ONCE):
                return
            c.count = min(MAX_COUNT, c.count + 1)
            cooldown = self._cooldown if candidate.cooldown_s is None else candidate.cooldown_s
            if error.cause in ("auth", "not_found"):
                cooldown = max(cooldown, KEY_COOLDOWN_S)
            if error.cause == "rate_limited" and error.retry_after is not None:
                c.length = error.retry_after  # the provider knows when; more would waste what it gives
            else:
                c.length = cooldown * c.count
            c.is_open, c.until, c.cause = True, now + c.length, error.cause
        if error.retry_after is not None:
            c.until = max(c.until, now + error.retry_after)

    def forget(self, backend: str) -> None:
        """The backend is gone, or its configuration changed (a new key deserves a new chance)."""
        self._circuits.pop(backend, None)

    def backends(self) -> list[str]:
        """Those that have a circuit."""
        return list(self._circuits)

    def snapshot(self, now: float) -> list[dict[str, Any]]:
        """Rows for statistics: backend, state, seconds left, failures in a row, ejections, cause."""
        rows = []
        for backend, c in self._circuits.items():
            state, left = self.state(backend, now)
            rows.append(
                {"backend": backend, "state": state, "open_for_s": left, "fails_in_row": c.in_row,
                 "ejections": c.count, "cause": c.cause}
            )  # fmt: skip
        return rows

    def _of(self, backend: str) -> _Circuit:
        """Its circuit, from now on the latest; the one that was not heard of for the longest time makes room."""
        c = self._circuits.pop(backend, None)
        if c is None:
            c = _Circuit()
            if len(self._circuits) >= REMEMBERED:
                del self._circuits[next(iter(self._circuits))]
        self._circuits[backend] = c
        return c

    @staticmethod
    def _close(c: _Circuit, now: float) -> None:
        c.is_open, c.trial, c.cause = False, -math.inf, ""
        c.closed_at = now
        c.now_bad = c.old_bad = 0

    @staticmethod
    def _rotate(c: _Circuit, now: float) -> None:
        if now - c.begun < WINDOW_S:
            return
        fresh = now - c.begun < 2 * WINDOW_S
        c.old_ok, c.old_bad = (c.now_ok, c.now_bad) if fresh else (0, 0)
        c.now_ok = c.now_bad = 0
        c.begun = now
