"""The fixed scenarios of routing.py. Times in simulated seconds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from routing_world import Backend, Scenario


def flat(seconds: float) -> Callable[[float], float]:
    return lambda t: seconds


def during(begin: float, end: float, inside: float, outside: float) -> Callable[[float], float]:
    return lambda t: inside if begin <= t < end else outside


def _step(rng: random.Random) -> list[Backend]:
    """The fastest becomes ten times slower and recovers."""
    return [Backend("a", during(80, 160, 3.0, 0.3)), Backend("b", flat(0.5)), Backend("c", flat(0.8))]


def _spelled(rng: random.Random, apart: tuple[float, float], until: float) -> list[Backend]:
    """The fastest has spells of 2 to 5 s in which it is 8 times slower."""
    spells: list[tuple[float, float]] = []
    t = 20.0
    while t < until - 10:
        spells.append((t, t + rng.uniform(2, 5)))
        t += rng.uniform(*apart)

    def slow(t: float) -> bool:
        return any(b <= t < e for b, e in spells)

    return [Backend("a", lambda t: 2.4 if slow(t) else 0.3), Backend("b", flat(0.45)), Backend("c", flat(0.6))]


def _spikes(rng: random.Random) -> list[Backend]:
    """Spells about two minutes apart.

    What is sent between the beginning of a spell and the first answer that is late is lost to everyone who does not see
    the future: about 0.6 s of traffic each time, 0.45 % of all, half of what a p99 forgives.
    """
    return _spelled(rng, (120, 160), 400)


def _many_spikes(rng: random.Random) -> list[Backend]:
    """Spells 25 to 45 s apart: 1.4 % is lost, and only who never asks the fastest again comes near the oracle."""
    return _spelled(rng, (25, 45), 250)


def _outage_refused(rng: random.Random) -> list[Backend]:
    """The fastest refuses connections for 60 s."""
    return [
        Backend("a", flat(0.3), health=lambda t: "refused" if 80 <= t < 140 else "ok"),
        Backend("b", flat(0.5)),
        Backend("c", flat(0.7)),
    ]


def _outage_stall(rng: random.Random) -> list[Backend]:
    """The fastest accepts requests for 60 s and says nothing."""
    return [
        Backend("a", flat(0.3), health=lambda t: "stall" if 80 <= t < 140 else "ok"),
        Backend("b", flat(0.5)),
        Backend("c", flat(0.7)),
    ]


def _storm(rng: random.Random) -> list[Backend]:
    """The fastest lets 4 requests a second through for two minutes and sends the others away for 2 s."""
    return [
        Backend("a", flat(0.3), limit=lambda t: 4 if 60 <= t < 180 else None, retry_after_s=2.0),
        Backend("b", flat(0.5)),
        Backend("c", flat(0.7)),
    ]


def _drift(rng: random.Random) -> list[Backend]:
    """Two change slowly and against each other; the third stays in between."""

    def wave(phase: float) -> Callable[[float], float]:
        return lambda t: 0.5 * math.exp(0.7 * math.sin(2 * math.pi * (t / 120 + phase)))

    return [Backend("a", wave(0.0)), Backend("b", wave(0.5)), Backend("c", flat(0.6))]


def _cold(rng: random.Random) -> list[Backend]:
    """Six that nobody has ever measured."""
    bases = [0.25, 0.4, 0.6, 0.9, 1.4, 2.0]
    rng.shuffle(bases)
    return [Backend(f"backend-{i}", flat(base)) for i, base in enumerate(bases)]


def _load(rng: random.Random) -> list[Backend]:
    """Three that slow down with what is in flight, one of them a small machine."""
    return [
        Backend("a", flat(0.25), load=1.0, capacity=6),
        Backend("b", flat(0.3), load=1.0, capacity=8),
        Backend("c", flat(0.35), load=1.0, capacity=16),
    ]


SCENARIOS = (
    Scenario("step and recovery", _step, recovered=(("a", 160.0),)),
    Scenario("spikes", _spikes, seconds=400.0),
    Scenario("spikes without end", _many_spikes, bar=False),
    Scenario("outage, refused", _outage_refused, recovered=(("a", 140.0),)),
    Scenario("outage, stalled", _outage_stall, recovered=(("a", 140.0),)),
    Scenario("429 storm", _storm, recovered=(("a", 180.0),)),
    Scenario("drift", _drift, seconds=300.0),
    Scenario("cold start", _cold),
    Scenario("load-coupled", _load),
)
