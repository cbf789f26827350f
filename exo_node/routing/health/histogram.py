"""Streaming quantiles: logarithmic buckets in two rotating windows, a few hundred bytes however many samples come."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

PER_OCTAVE = 8  # buckets per doubling: a quantile is right within 4.4 %
WINDOW_S = 60.0


@dataclass(slots=True)
class RotatingHistogram:
    """Positive numbers of the last one to two windows (Prometheus summaries rotate alike)."""

    window_s: float = WINDOW_S
    _begun: float = -math.inf
    _current: dict[int, int] = field(default_factory=dict)
    _before: dict[int, int] = field(default_factory=dict)

    def add(self, value: float, now: float) -> None:
        """Count `value` (clamped to 1e-6 and up)."""
        self._rotate(now)
        bucket = math.floor(math.log2(max(value, 1e-6)) * PER_OCTAVE)
        self._current[bucket] = self._current.get(bucket, 0) + 1

    def count(self, now: float) -> int:
        """Samples still remembered."""
        self._rotate(now)
        return sum(self._current.values()) + sum(self._before.values())

    def quantile(self, q: float, now: float, at_least: int = 1) -> float | None:
        """The value below which a share `q` (0..1) of the samples lies; None with fewer than `at_least`."""
        total = self.count(now)
        if total < max(1, at_least):
            return None
        rank = q * total
        below = 0
        buckets = sorted({*self._current, *self._before})
        for bucket in buckets:
            below += self._current.get(bucket, 0) + self._before.get(bucket, 0)
            if below >= rank:
                return float(2 ** ((bucket + 0.5) / PER_OCTAVE))
        return float(2 ** ((buckets[-1] + 0.5) / PER_OCTAVE))

    def _rotate(self, now: float) -> None:
        if now - self._begun < self.window_s:
            return
        self._before = self._current if now - self._begun < 2 * self.window_s else {}
        self._current = {}
        self._begun = now
