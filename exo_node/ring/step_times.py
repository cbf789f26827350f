"""What a ring has measured of itself: how long its stages take for a step of so many tokens. Pure; seconds."""

from __future__ import annotations

from collections.abc import Sequence

from exo_node.ring.messages import Report

WEIGHT = 0.2  # of a new measurement in its bucket's mean
SPIKE = 4.0  # a measurement so many times the mean counts as this much: a machine's hiccup is no new speed


class StepTimes:
    """Mean seconds by number of tokens, kept in buckets of 1, 2, 3-4, 5-8, 9-16 and so on.

    Below a few dozen tokens a step costs what reading the weights costs, far above it grows with the tokens, and where
    the bend lies depends on the device: so the curve is kept as measured, and read with straight lines between.
    """

    def __init__(self) -> None:
        self._means: dict[int, tuple[float, float]] = {}  # bucket -> (mean tokens, mean seconds)
        self._points: list[tuple[float, float]] = []  # the means in order

    @property
    def known(self) -> bool:
        return bool(self._means)

    def knows(self, tokens: int) -> bool:
        """Whether a step of about this size was measured."""
        return (tokens - 1).bit_length() in self._means

    def add(self, tokens: int, seconds: float) -> None:
        bucket = (tokens - 1).bit_length()
        found = self._means.get(bucket)
        if found is None or found[1] > SPIKE * seconds:  # the first of this size was a hiccup itself
            self._means[bucket] = (float(tokens), seconds)
        else:
            mean_tokens, mean_seconds = found
            seconds = min(seconds, SPIKE * mean_seconds * max(1.0, tokens / mean_tokens))
            self._means[bucket] = (
                mean_tokens + WEIGHT * (tokens - mean_tokens),
                mean_seconds + WEIGHT * (seconds - mean_seconds),
            )
        self._points = sorted(self._means.values())

    def of(self, tokens: int) -> float:
        """Predicted seconds for a step of `tokens`; never less than for a shorter one. 0 where nothing is known.

        Below the smallest that was measured it is hopeful (down to half of that), so that smaller steps are tried: what
        they take is then known.
        """
        points = self._points
        if not points:
            return 0.0
        highest = 0.0
        before: tuple[float, float] | None = None
        for at, seconds in points:
            seconds = max(seconds, highest)
            if tokens <= at:
                if before is None:
                    return seconds * (1 + tokens / at) / 2
                share = (tokens - before[0]) / (at - before[0])
                return before[1] + share * (seconds - before[1])
            before, highest = (at, seconds), seconds
        assert before is not None
        # Beyond the largest: in proportion, which is what a device that is busy with arithmetic does.
        return before[1] * (tokens / before[0] if len(points) > 1 or before[0] >= 16 else 1.0)


class RingTimes:
    """All stages, and what a trip costs beside their work."""

    def __init__(self, n_stages: int) -> None:
        self.n_stages = n_stages
        self._stages = [StepTimes() for _ in range(n_stages)]
        self._hops = 0.0
        self._trips: dict[int, float] = {}  # asked for since the last step, by tokens

    @property
    def known(self) -> bool:
        """Whether steps of at least one size have come home."""
        return self._stages[0].known

    def add(self, tokens: int, reports: Sequence[Report], trip: float, finish: float) -> None:
        """A step of `tokens` came home `trip` seconds after it was begun; the head then took `finish` for its outputs.

        An engine may put work off until then, and the head cannot begin another step before: it is stage 0's time.
        """
        work = 0.0
        for times, report in zip(self._stages, reports, strict=True):
            busy = (report.engine_us + report.codec_us) / 1e6
            work += busy + report.queue_us / 1e6
            times.add(tokens, busy + (0.0 if report.stage else finish))
        rest = max(0.0, trip - work)
        self._trips.clear()
        self._hops = rest if not self._hops else self._hops + WEIGHT * (min(rest, SPIKE * self._hops) - self._hops)

    def slowest(self, tokens: int) -> float:
        return max(stage.of(tokens) for stage in self._stages)

    def trip(self, tokens: int) -> float:
        """Seconds once round, with nothing in the way."""
        trip = self._trips.get(tokens)
        if trip is None:
            trip = self._trips[tokens] = sum(stage.of(tokens) for stage in self._stages) + self._hops
        return trip

    def known_trip(self, tokens: int) -> float | None:
        """The same for a size that was measured, else None; changes nothing here, so that any thread may ask."""
        known = tokens > 0 and self._stages[0].knows(tokens)
        return sum(stage.of(tokens) for stage in self._stages) + self._hops if known else None
