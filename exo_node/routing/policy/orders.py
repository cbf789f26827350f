"""The strategies themselves: each puts options in the order in which they are to be tried, and says why. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exo_node.routing.plan import Ask, ProfileView
from exo_node.routing.policy import strategies as names
from exo_node.routing.policy.heuristics import HARD, assess, strength, suits
from exo_node.routing.policy.options import Option

NEAR = 0.05  # predictions within this share are the same: load and cost decide
EPSILON = 0.01  # of requests go to another backend that is not known to be much slower,
NOT_MUCH = 1.5


@dataclass(slots=True)
class Order:
    options: list[Option]
    reason: str
    explored: bool = False


def order(
    strategy: str, options: Sequence[Option], ask: Ask, profile: ProfileView, now: float, rng: random.Random
) -> Order:
    """`options` (at least one) as `strategy` (a resolved name) wants them tried."""
    if strategy in (names.LATENCY, names.LOCAL_FIRST, names.CLOUD_FIRST, names.HYBRID):
        return _grouped_latency(strategy, options, ask, rng)
    if strategy in (names.SHUFFLE, names.BUDGET):
        return _shuffled(strategy, options, rng)
    if strategy == names.HEURISTIC:
        return _heuristic(options, ask)
    key, words = _KEYS[strategy]
    ranked = sorted(options, key=lambda o: (key(o, profile, now), o.total_s, rng.random()))
    reason = words(ranked[0], profile, now)
    if len(ranked) > 1:
        reason += f" against {words(ranked[1], profile, now)} of {ranked[1].name}"
    return Order(ranked, f"{_LEAD[strategy]}: {reason}")


def _cost(o: Option, profile: ProfileView, now: float) -> float:
    return math.inf if o.cost is None else o.cost


def _cost_words(o: Option, profile: ProfileView, now: float) -> str:
    return "an unknown cost" if o.cost is None else f"${o.cost:.6f}"


def _busy(o: Option, profile: ProfileView, now: float) -> float:
    return o.load if o.candidate.capacity else float(profile.in_flight(o.candidate.backend))


def _busy_words(o: Option, profile: ProfileView, now: float) -> str:
    return f"{profile.in_flight(o.candidate.backend)} in flight"


def _priority(o: Option, profile: ProfileView, now: float) -> float:
    return math.inf if o.candidate.order is None else o.candidate.order


def _priority_words(o: Option, profile: ProfileView, now: float) -> str:
    return "no order" if o.candidate.order is None else f"order {o.candidate.order}"


def _usage(o: Option, profile: ProfileView, now: float) -> float:
    return profile.tokens_this_minute(o.candidate.backend, now)


def _usage_words(o: Option, profile: ProfileView, now: float) -> str:
    return f"{profile.tokens_this_minute(o.candidate.backend, now)} tokens this minute"


_Key = Callable[[Option, ProfileView, float], float]
_Words = Callable[[Option, ProfileView, float], str]
_KEYS: dict[str, tuple[_Key, _Words]] = {
    names.COST: (_cost, _cost_words),
    names.CASCADE: (_cost, _cost_words),
    names.LEAST_BUSY: (_busy, _busy_words),
    names.PRIORITY: (_priority, _priority_words),
    names.USAGE: (_usage, _usage_words),
}
_LEAD = {
    names.COST: "cheapest",
    names.CASCADE: "cheapest first",
    names.LEAST_BUSY: "least busy",
    names.PRIORITY: "first by priority",
    names.USAGE: "least used",
}


def _grouped_latency(strategy: str, options: Sequence[Option], ask: Ask, rng: random.Random) -> Order:
    """Latency, in parts: the ring or the cloud first, or what suits the task first."""
    if strategy == names.LATENCY:
        return _latency(options, rng)
    if strategy == names.HYBRID:
        seen = assess(ask)
        dearest = max(strength(o.candidate) for o in options)
        first = [o for o in options if not suits(seen, o.candidate, dearest)]
        lead = f"suits {seen.words}"
    else:
        local = strategy == names.LOCAL_FIRST
        first = [o for o in options if (o.candidate.kind == "ring") == local]
        lead = "local first" if local else "cloud first"
    rest = [o for o in options if o not in first]
    if not first:
        found = _latency(rest, rng)
        return Order(found.options, f"no backend {lead}: {found.reason}", found.explored)
    found = _latency(first, rng)
    later = sorted(rest, key=lambda o: o.total_s)
    return Order([*found.options, *later], f"{lead}; {found.reason}", found.explored)


def _latency(options: Sequence[Option], rng: random.Random) -> Order:
    """The shortest predicted time first, unless another one is worth a look."""
    if len(options) == 1:  # as in most calls
        return Order([options[0]], f"predicted {options[0].ttft_s:.2f} s to the first token, the only choice")
    ranked = sorted(options, key=lambda o: o.total_s)
    best = ranked[0]
    looks = [
        o for o in ranked[1:] if o.hoped_s is not None and o.hoped_s + o.output_s < best.total_s and not best.half_open
    ]
    if best.half_open or looks:
        look = best if best.half_open else min(looks, key=lambda o: o.hoped_s or 0.0)
        rest = [o for o in ranked if o is not look]
        if (look is best and rest) or look is not best:
            reason = f"a look at {look.name}: it may be faster than {rest[0].name} again"
            return Order([look, *rest], f"{reason} (predicted {rest[0].ttft_s:.2f} s)", explored=True)
    near = [o for o in ranked if o.total_s <= best.ttft_s * (1 + NEAR) + best.output_s * (1 + NEAR / 4)]
    if rng.random() < EPSILON:
        others = [o for o in ranked if o.ttft_s < NOT_MUCH * best.ttft_s and o.total_s < NOT_MUCH * best.total_s]
        look = rng.choice(others)
        if look is not best:
            rest = [o for o in ranked if o is not look]
            return Order([look, *rest], f"chance: 1 request in {round(1 / EPSILON)} may be elsewhere", explored=True)
    chosen = best
    if len(near) > 1:  # power of two choices
        one, other = rng.sample(near, 2)
        chosen = min(one, other, key=lambda o: (o.load, math.inf if o.cost is None else o.cost, o.total_s))
        cheapest = min(near, key=lambda o: math.inf if o.cost is None else o.cost)
        if cheapest.cost is not None and cheapest.load < 1 and (chosen.cost is None or cheapest.cost < chosen.cost):
            chosen = cheapest
    rest = [o for o in ranked if o is not chosen]
    other = rest[0]
    reason = f"predicted {chosen.ttft_s:.2f} s to the first token against {other.ttft_s:.2f} s of {other.name}"
    if other.ttft_s < chosen.ttft_s:
        reason += ", " + _second_axis(chosen, other)
    return Order([chosen, *rest], reason)


def _second_axis(chosen: Option, other: Option) -> str:
    if chosen.cost is not None and (other.cost is None or chosen.cost < other.cost):
        return "near enough, and cheaper"
    if chosen.load < other.load:
        return "near enough, and less busy"
    return "with the answer's length counted in" if chosen.total_s < other.total_s else "near enough"


def _shuffled(strategy: str, options: Sequence[Option], rng: random.Random) -> Order:
    """A random permutation by weight (exponential keys: P(first) = weight share). Without any weight all are equal.

    As in LiteLLM, one without a weight among weighted ones is only a last resort.
    """
    weighted = any(o.candidate.weight for o in options)

    def draw(o: Option) -> tuple[int, float]:
        weight = (o.candidate.weight or 0.0) if weighted else 1.0
        u = 1.0 - rng.random()
        return (0, -math.log(u) / weight) if weight > 0 else (1, u)

    ranked = sorted(options, key=draw)
    lead = "budgets have room; " if strategy == names.BUDGET else ""
    how = "by weight" if weighted else "evenly"
    return Order(ranked, f"{lead}drawn {how} among {len(ranked)}")


def _heuristic(options: Sequence[Option], ask: Ask) -> Order:
    """What suits the task first: the strongest for a hard one, the cheapest for an easy one."""
    seen = assess(ask)
    dearest = max(strength(o.candidate) for o in options)

    def rank(o: Option) -> tuple[bool, bool, float, float]:
        made = seen.task in {t.lower() for t in o.candidate.task_types}
        price = -strength(o.candidate) if seen.hard >= HARD else math.inf if o.cost is None else o.cost
        return bool(suits(seen, o.candidate, dearest)), not made, price, o.total_s

    ranked = sorted(options, key=rank)
    return Order(ranked, f"{seen.words}: {'the strongest' if seen.hard >= HARD else 'the cheapest'} that suits")
