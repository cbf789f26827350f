"""Which backends serve a call, in which order, and why: one pure function. The adapter carries the plan out."""

from __future__ import annotations

import random
from collections.abc import Sequence

from exo_node.errors import InvalidRequest
from exo_node.routing.plan import Ask, BreakerView, Candidate, ProfileView, RoutePlan, Step
from exo_node.routing.policy import strategies as names
from exo_node.routing.policy.options import Option, emulated, predict, tell_apart, why_not
from exo_node.routing.policy.orders import Order, order

ASKED_FOR_TIME = "rate_limited"  # its Retry-After is honoured even when nobody else is there


def choose(
    candidates: Sequence[Candidate],
    ask: Ask,
    profile: ProfileView,
    breaker: BreakerView,
    now: float,
    rng: random.Random,
) -> RoutePlan:
    """The plan for one call. No steps: nothing may serve it, `rejected` says why for each candidate.

    Tiers follow one another; inside a tier the call's strategy orders rings, single deployments and router groups, and
    a group's own strategy its members. Ejected backends are left out, unless there is nothing else: then the least bad
    are offered. Raises `InvalidRequest` for a strategy that does not exist.
    """
    try:
        strategy = names.resolve(ask.strategy)
    except ValueError as e:
        raise InvalidRequest(str(e), param="exo.strategy") from e
    rejected: dict[str, str] = {}
    usable: dict[str, Option] = {}
    ejected: list[tuple[float, Option]] = []
    emulate = emulated(candidates, ask)
    for candidate in sorted(candidates, key=lambda c: c.tier):
        if candidate.backend in usable:
            continue  # listed twice: the better tier counts
        if why := why_not(candidate, ask, emulate):
            rejected.setdefault(candidate.backend, why)
            continue
        rejected.pop(candidate.backend, None)
        state, left = breaker.state(candidate.backend, now)
        option = predict(candidate, ask, profile, now, half_open=state == "half_open")
        missing = ask.needs - candidate.capabilities
        if missing:
            option.note = f", {', '.join(sorted(missing))} by prompt"
        if state == "open":
            ejected.append((left, option))
        else:
            usable[candidate.backend] = option
    tell_apart([*usable.values(), *(option for _, option in ejected)])
    for left, option in ejected:
        if option.candidate.backend not in usable and usable:
            rejected[option.candidate.backend] = f"failed lately: not asked for {left:.1f} s more"
    if not usable:
        patient = [one for one in ejected if breaker.why(one[1].candidate.backend) != ASKED_FOR_TIME]
        waiting = [one for one in ejected if one not in patient]
        rejected |= {o.candidate.backend: f"it asked to be left alone for {left:.1f} s more" for left, o in waiting}
        if waiting and not patient:
            left = min(left for left, _ in waiting)
            reason = f"every backend asked to be left alone, the first for {left:.1f} s more"
            return RoutePlan(strategy=strategy, steps=(), rejected=rejected, reason=reason, retry_after_s=left)
        return _least_bad(strategy, patient, ask, profile, now, rejected)

    steps: list[Step] = []
    first: Order | None = None
    for tier in sorted({o.candidate.tier for o in usable.values()}):
        options = [o for o in usable.values() if o.candidate.tier == tier]
        full = [o for o in options if _is_full(o)]
        found = _tier([o for o in options if o not in full] or full, strategy, ask, profile, now, rng)
        if len(found.options) < len(options):
            found.options += sorted(full, key=lambda o: o.total_s)
        if first is None:
            first = found
        for option in found.options:
            reason = found.reason if option is found.options[0] else "next if that fails"
            if tier and first is not found:
                reason = f"only if the ones before fail: {found.reason}" if option is found.options[0] else reason
            steps.append(_step(option, reason, ask, profile, now))
    assert first is not None
    return RoutePlan(
        strategy=strategy,
        steps=tuple(steps),
        rejected=rejected,
        reason=steps[0].reason,
        cascade=strategy == names.CASCADE and len(steps) > 1,
        explored=first.explored,
    )


def _is_full(option: Option) -> bool:
    """A deployment that would refuse at once: as many requests are running as it takes (a ring lets them wait)."""
    return option.candidate.kind == "deployment" and option.candidate.capacity is not None and option.load >= 1


def _tier(
    options: list[Option], strategy: str, ask: Ask, profile: ProfileView, now: float, rng: random.Random
) -> Order:
    """One tier: groups by their own strategy, what leads each group by the call's."""
    if len(options) == 1:  # as in most calls: no groups, no dice
        return order(strategy, options, ask, profile, now, rng)
    groups: dict[str, list[Option]] = {}
    for option in options:
        c = option.candidate
        alone = ask.wished or not c.group
        groups.setdefault(f"backend {c.backend}" if alone else f"group {c.group}", []).append(option)
    inner: dict[int, Order] = {}
    for members in groups.values():
        if len(members) == 1:
            inner[id(members[0])] = Order(members, "")
            continue
        own = _group_order(members, ask, profile, now, rng)
        inner[id(own.options[0])] = own
    leads = [own.options[0] for own in inner.values()]
    if len(inner) == 1:
        (only,) = inner.values()
        return only
    # The lead of a shuffled group is where the dice fell: whether to take a look at it is not the node's to choose.
    found = order(strategy, leads, ask, profile, now, rng)
    ordered = [member for lead in found.options for member in inner[id(lead)].options]
    own = inner[id(found.options[0])]
    return Order(ordered, f"{found.reason}; in its group {own.reason}" if own.reason else found.reason, found.explored)


def _group_order(members: list[Option], ask: Ask, profile: ProfileView, now: float, rng: random.Random) -> Order:
    """A router group's members: lower `order` first (LiteLLM's rule for every strategy), then the group's strategy."""
    given = members[0].candidate.group_strategy
    try:
        own = names.resolve(given) if given else names.SHUFFLE
    except ValueError as e:
        raise InvalidRequest(f"router group {members[0].candidate.group!r}: {e}", param="model") from e
    parts: list[Order] = []
    for rank in sorted({_rank(m) for m in members}):
        parts.append(order(own, [m for m in members if _rank(m) == rank], ask, profile, now, rng))
    return Order([o for part in parts for o in part.options], f"{own}: {parts[0].reason}", parts[0].explored)


def _rank(option: Option) -> float:
    return float("inf") if option.candidate.order is None else option.candidate.order


def _least_bad(
    strategy: str,
    ejected: list[tuple[float, Option]],
    ask: Ask,
    profile: ProfileView,
    now: float,
    rejected: dict[str, str],
) -> RoutePlan:
    """Every backend that could serve is ejected: those that come back soonest, tier by tier."""
    ranked = sorted(ejected, key=lambda e: (e[1].candidate.tier, e[0], e[1].total_s))
    steps = tuple(
        _step(option, f"every backend failed lately; this one is tried again in {left:.1f} s", ask, profile, now)
        for left, option in ranked
    )
    reason = steps[0].reason if steps else "no backend can serve this request"
    return RoutePlan(strategy=strategy, steps=steps, rejected=rejected, reason=reason)


def _step(option: Option, reason: str, ask: Ask, profile: ProfileView, now: float) -> Step:
    return Step(
        candidate=option.candidate,
        ttft_s=option.ttft_s,
        total_s=option.total_s,
        cost=option.cost,
        reason=f"{option.name}: {reason}{option.note}",
        hedge_after_s=_late_after(option, ask, profile, now) if ask.hedge else None,
    )


def _late_after(option: Option, ask: Ask, profile: ProfileView, now: float) -> float | None:
    """Seconds of silence after which a backend is late; a plain answer is silent while it is made, too."""
    first = profile.p95_ttft(option.candidate, ask.prompt_tokens, now)
    return first if first is None or ask.stream else first + option.output_s
