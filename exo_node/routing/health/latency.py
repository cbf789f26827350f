"""What one backend's latency is known to be: how it grows with the prompt and the load, and how it is just now.

Two time scales. The `Fit` is slow: seconds to the first token as a straight line in prompt length and requests in
flight, learned from ordinary answers. The `level` is fast: the ratio of what is seen to what the fit says, a
time-decayed EWMA in the logarithm that jumps when samples leave the noise (a peak EWMA, as Finagle's and tower's, but
one that knows the noise: a plain one sends a fleet to a slower backend after each outlier). Pure: `now` comes in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from exo_node.routing.health.histogram import RotatingHistogram

FORGET = 0.995  # per sample: the fit remembers about 200
LEVEL_TAU_S = 2.0  # the level follows ordinary samples over about this long,
LEVEL_GAIN = (0.05, 0.4)  # but one sample moves it at least and at most this much
SURPRISE = 2.5  # standard deviations beyond which a sample is no noise
FIRST_JUMP, NEXT_JUMP = 0.5, 0.9  # how far one surprise, and one that follows another, moves the level
SPREAD = (0.15, 1.0)  # bounds of the noise's standard deviation, in the logarithm
SPREAD_START = 0.35  # of a provider that nobody has measured (a p95 of 1.8 times the median)
LOOK_GAP_S = (1.0, 15.0)  # a backend that got slower is looked at again after this long, doubling
STALE_HALF_S = 30.0  # what was seen just now is half forgotten after this long without a look
MEMORY_HALF_S = 2 * 3600.0  # and what it usually is after this long
FEAR, TAIL = 20.0, 0.005  # spells that hit more than half of what a p99 forgives: what is above weighs 20 times
SPELL, SPELLS_APART_S, EXCESS_CAP = math.log(2), 15.0, 30.0  # what makes a spell; bounds of what is held against it
SUSPECT_WEIGHT = 0.05  # of samples out of the ordinary in the slow fit
BINS = (256, 1024, 4096, 16384, 65536)  # upper bounds of prompt lengths in tokens; the last bin is open
BIN_SHRINK = 8.0  # samples' worth of "as the line says" in a bin's own factor


def bin_of(prompt_tokens: int) -> int:
    """Index of the prompt-length bin, 0..len(BINS)."""
    for i, bound in enumerate(BINS):
        if prompt_tokens < bound:
            return i
    return len(BINS)


@dataclass(frozen=True, slots=True)
class Prior:
    """Seconds to the first token before anything is measured: `base` + `per_1k` per 1000 prompt tokens +
    `per_request` for each request already in flight; `itl` seconds between tokens."""

    base: float
    per_1k: float
    per_request: float
    itl: float

    def ttft(self, prompt_tokens: int, load: float) -> float:
        return self.base + self.per_1k * prompt_tokens / 1000 + self.per_request * load


@dataclass(slots=True)
class Fit:
    """Weighted recursive least squares of `t = a + b * prompt/1000 + c * load`, shrunk to a prior.

    Samples count by relative error (weight 1 / predicted^2). The shrinkage is worth one sample for `a`, two at 1000
    tokens for `b`, twenty at one request in flight for `c` (a latency step raises the load by itself).
    """

    s: list[float] = field(default_factory=lambda: [0.0] * 6)  # 11, 1p, 1q, pp, pq, qq
    t: list[float] = field(default_factory=lambda: [0.0] * 3)
    n: float = 0.0
    w: float = 0.0

    def add(self, prompt_1k: float, load: float, seconds: float, predicted: float, weight: float) -> None:
        s, t = self.s, self.t
        w = weight / max(predicted, 1e-3) ** 2
        f = (w, w * prompt_1k, w * load, w * prompt_1k**2, w * prompt_1k * load, w * load**2)
        forget = 1 - (1 - FORGET) * min(1.0, weight)
        for i in range(6):
            s[i] = s[i] * forget + f[i]
        t[0] = t[0] * forget + w * seconds
        t[1] = t[1] * forget + w * prompt_1k * seconds
        t[2] = t[2] * forget + w * load * seconds
        self.n = self.n * forget + weight
        self.w = self.w * forget + w

    def solve(self, prior: Prior) -> tuple[float, float, float]:
        """(a, b, c), none negative."""
        a0, b0, c0 = prior.base, prior.per_1k, prior.per_request
        if self.n <= 0:
            return a0, b0, c0
        unit = self.w / self.n
        ka, kb, kc = unit, 2 * unit, 20 * unit
        s11, s1p, s1q, spp, spq, sqq = self.s
        a11, app, aqq = s11 + ka, spp + kb, sqq + kc
        t1, tp, tq = self.t[0] + ka * a0, self.t[1] + kb * b0, self.t[2] + kc * c0
        # Two rounds of exact block solving: (b, c) with a eliminated, negative ones set to 0.
        mpp, mpq, mqq = app - s1p * s1p / a11, spq - s1p * s1q / a11, aqq - s1q * s1q / a11
        rp, rq = tp - s1p * t1 / a11, tq - s1q * t1 / a11
        det = mpp * mqq - mpq * mpq
        b, c = ((rp * mqq - rq * mpq) / det, (rq * mpp - rp * mpq) / det) if det > 1e-12 * mpp * mqq else (b0, c0)
        if b < 0:
            b, c = 0.0, rq / mqq
        if c < 0:
            b, c = max(0.0, rp / mpp), 0.0
        return max(1e-3, (t1 - s1p * b - s1q * c) / a11), b, c


@dataclass(slots=True)
class Track:
    """All that is known of one backend's latency. Ratios and `level` are natural logarithms."""

    prior: Prior
    fit: Fit = field(default_factory=Fit)
    line: tuple[float, float, float] = (0.0, 0.0, 0.0)
    level: float = 0.0
    var: float = SPREAD_START**2
    tentative: float | None = None  # the level before a surprise that nothing has borne out yet
    run: int = 0  # surprises in a row, their sign says which way
    slow_row: int = 0  # slow ones in a row
    slowed: bool = False  # inside a spell of slowness
    spell: float = -math.inf  # when the last one began
    interval: float = math.inf  # mean seconds between two
    excess: float = 0.0  # how much slower, as a multiple of the usual
    excess_before: float = 0.0  # in the spell before
    samples: float = 0.0
    seen: float = -math.inf  # last evidence
    looked: float = -math.inf  # last request sent
    gap: float = LOOK_GAP_S[0]
    widened: float = -math.inf
    itl: float = 0.0
    itl_n: float = 0.0
    itl_seen: float = -math.inf
    bins: list[list[float]] = field(default_factory=lambda: [[0.0, 0.0] for _ in range(len(BINS) + 1)])
    ratios: RotatingHistogram = field(default_factory=RotatingHistogram)

    def __post_init__(self) -> None:
        self.line = self.fit.solve(self.prior)

    def reprior(self, prior: Prior) -> None:
        """Another prior, as when a peer's measurements arrived."""
        self.prior, self.line = prior, self.fit.solve(prior)

    def usual(self, prompt_tokens: int, load: float, now: float) -> float:
        """Seconds that the slow memory says, fading to the prior over hours without a sample."""
        a, b, c = self.line
        kept, moved = self.bins[bin_of(prompt_tokens)]
        seconds = (a + b * prompt_tokens / 1000 + c * load) * math.exp(moved * kept / (kept + BIN_SHRINK))
        age = now - self.seen
        if age > 60 and self.samples:
            fade = 0.5 ** (age / MEMORY_HALF_S)
            seconds = seconds * fade + self.prior.ttft(prompt_tokens, load) * (1 - fade)
        return seconds

    def level_now(self, now: float) -> float:
        """The fast ratio's logarithm, fading to 0 once the last look is older than the gap."""
        stale = now - self.seen - self.gap
        return self.level if stale <= 0 else self.level * 0.5 ** (stale / STALE_HALF_S)

    def premium(self, now: float) -> float:
        """What spells of slowness that come again and again cost a request, as a multiple of the usual time.

        Share of requests hit = spells per second * seconds until one is noticed. One spell is no habit: it is free.
        """
        if self.interval == math.inf:
            return 0.0
        noticed = (self.line[0] + self.line[1] * 0.5) * math.exp(SURPRISE * self.spread)  # of 500 tokens
        share = noticed / max(SPELLS_APART_S, self.interval, now - self.spell)
        return (share + FEAR * max(0.0, share - TAIL)) * min(EXCESS_CAP, self.excess, self.excess_before)

    @property
    def spread(self) -> float:
        return math.sqrt(self.var)

    @property
    def suspect(self) -> bool:
        """It is out of the ordinary now."""
        return self.level > SURPRISE * self.spread

    def see(self, prompt_tokens: int, load: float, seconds: float, now: float, *, full: bool = False) -> None:
        """One time to the first token (or a failure's price). `full`: it ran at capacity, the line learns nothing."""
        usual = self.usual(prompt_tokens, load, now)
        a, b, c = self.line
        line = a + b * prompt_tokens / 1000 + c * load
        x = math.log(max(seconds, 1e-4) / usual)
        before, spread = self.level, self.spread
        off = x - before
        first = self.samples == 0
        borne_out = False
        if self.tentative is not None:  # the one surprise before: taken back, unless this one bears it out
            borne_out = (x - self.tentative) * (before - self.tentative) > 0
            if abs(x - self.tentative) <= SURPRISE * spread:
                borne_out, self.level, before = False, self.tentative, self.tentative
                off = x - before
            self.tentative = None
        if first:
            self.level = 0.0
        elif borne_out or abs(off) > SURPRISE * spread:
            self.run = self.run + 1 if off > 0 and self.run >= 0 else self.run - 1 if off < 0 and self.run <= 0 else 0
            jump = NEXT_JUMP if borne_out or abs(self.run) > 1 else FIRST_JUMP
            # Back to what it usually is: that is no surprise but the end of one.
            if off < 0 and abs(x) < SURPRISE * spread:
                jump = 1.0
            elif jump == FIRST_JUMP:
                self.tentative = before
            self.level += jump * off
        else:
            self.run = 0
            low, high = LEVEL_GAIN
            gain = min(high, max(low, 1 - math.exp(-(now - self.seen) / LEVEL_TAU_S)))
            self.level += gain * off
        if not first:
            square = min(off * off, 4 * self.var)  # a spell of slowness must not pass for noise
            self.var = min(SPREAD[1] ** 2, max(SPREAD[0] ** 2, self.var + 0.03 * (square - self.var)))
        self.slow_row = self.slow_row + 1 if x > max(SURPRISE * spread, SPELL) else 0
        if self.slow_row > 2:
            self._slower(math.exp(x) - 1, now)
        if off < -0.3 or not self.suspect:
            self.gap = LOOK_GAP_S[0]
        elif now - self.widened >= self.gap:  # not for each of many that were on their way already
            self.gap, self.widened = min(LOOK_GAP_S[1], self.gap * 2), now
        if not self.suspect:
            self.slowed = False
        self.samples = min(1000.0, self.samples + 1)
        self.seen = now
        self.ratios.add(math.exp(x), now)
        if full:
            return
        ordinary = abs(x) <= SURPRISE * spread or first or self.samples <= 3
        weight = 1.0 if ordinary else SUSPECT_WEIGHT
        self.fit.add(prompt_tokens / 1000, load, seconds, usual, weight)
        self.line = self.fit.solve(self.prior)
        if ordinary and not first:
            own = self.bins[bin_of(prompt_tokens)]
            own[0] = min(200.0, own[0] + 1)
            own[1] += (math.log(max(seconds, 1e-4) / line) - own[1]) / max(10.0, own[0])
            own[1] = max(-1.0, min(1.0, own[1]))
        if ordinary and self.samples > 1:
            # What the fit has taken over, the level must not say again.
            moved = self.usual(prompt_tokens, load, now) / usual
            self.level -= max(-0.2, min(0.2, math.log(max(moved, 1e-6))))

    def _slower(self, excess: float, now: float) -> None:
        """The third slow one in a row begins a spell, those that follow belong to it.

        Two spells are a habit as bad as the lighter of them: an outage after a hiccup is no habit of outages.
        """
        apart = now - self.spell
        if self.slowed or apart < SPELLS_APART_S:
            self.slowed = True
            self.excess += 0.2 * (excess - self.excess)
            return
        self.slowed = True
        if apart < math.inf:
            self.interval = apart if self.interval == math.inf else (self.interval + apart) / 2
        self.spell, self.excess_before, self.excess = now, self.excess, excess

    def see_itl(self, seconds: float, tokens: int, now: float) -> None:
        """Mean seconds between tokens over `tokens` gaps."""
        gain = max(1 / (self.itl_n + 1), min(0.3, 0.02 * math.sqrt(max(1, tokens))))
        self.itl += gain * (seconds - self.itl)
        self.itl_n = min(1000.0, self.itl_n + 1)
        self.itl_seen = now

    def itl_now(self, now: float) -> float:
        """Seconds between tokens: measured, shrunk to the prior while little is known or all is old."""
        n = self.itl_n * 0.5 ** ((now - self.itl_seen) / MEMORY_HALF_S) if self.itl_n else 0.0
        return (self.itl * n + self.prior.itl) / (n + 1)

    def as_dict(self, now: float) -> dict[str, Any]:
        """JSON-able; ages in seconds instead of times."""
        return {
            "fit": [*self.fit.s, *self.fit.t, self.fit.n, self.fit.w],
            "level": self.level,
            "var": self.var,
            "samples": self.samples,
            "age_s": now - self.seen if self.samples else None,
            "gap_s": self.gap,
            "itl_s": self.itl,
            "itl_n": self.itl_n,
            "itl_age_s": now - self.itl_seen if self.itl_n else None,
        }

    def restore(self, row: dict[str, Any], now: float, elapsed_s: float) -> None:
        """Take over `as_dict`'s values, `elapsed_s` after they were taken."""
        sums = [float(v) for v in row["fit"]]
        self.fit = Fit(sums[:6], sums[6:9], sums[9], sums[10])
        self.line = self.fit.solve(self.prior)
        self.level, self.var, self.samples = float(row["level"]), float(row["var"]), float(row["samples"])
        self.gap, self.itl, self.itl_n = float(row["gap_s"]), float(row["itl_s"]), float(row["itl_n"])
        age, itl_age = row.get("age_s"), row.get("itl_age_s")
        self.seen = now - elapsed_s - age if age is not None else -math.inf
        self.itl_seen = now - elapsed_s - itl_age if itl_age is not None else -math.inf
