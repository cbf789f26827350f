"""The simulated world of routing.py: backends whose latency changes, and a stream of requests. No wall clock.

A backend's true time to the first token is `base(t) * (1 + load * in_flight / capacity) + per_1k * prompt/1000`, times
lognormal noise whose size no policy can know. It may refuse, stall (nothing comes until the caller's own limit), or
answer 429 above a rate. Every policy meets the same world with the same limits and failover: an attempt without a first
token after `FIRST_S` is given up, a failed request goes to the next backend of the policy's order, and everything that
was waited counts in the request's time to the first token.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

FIRST_S = 10.0  # an attempt without a first token is given up
ITL_S, OUTPUT_TOKENS = 0.015, 64
REFUSE_S, LIMITED_S = 0.02, 0.05
NOISE = 0.25  # standard deviation of the logarithm: p99 is 1.8 times the median

Health = str  # "ok" | "refused" | "stall"


@dataclass(slots=True)
class Backend:
    """`base(t)` seconds, `health(t)`, `limit(t)` requests per second before 429 (None: none)."""

    name: str
    base: Callable[[float], float]
    health: Callable[[float], Health] = lambda t: "ok"
    limit: Callable[[float], float | None] = lambda t: None
    per_1k: float = 0.05
    load: float = 0.0  # slowdown when `capacity` requests are in flight
    capacity: int = 8
    retry_after_s: float | None = None
    in_flight: int = 0
    window: float = -1.0
    taken: int = 0

    def expected(self, prompt: int, t: float) -> float:
        """True mean-like seconds (the median) of a request sent now."""
        return self.base(t) * (1 + self.load * self.in_flight / self.capacity) + self.per_1k * prompt / 1000

    def limited(self, t: float) -> bool:
        limit = self.limit(t)
        return limit is not None and math.floor(t) == self.window and self.taken >= limit

    def take(self, t: float) -> None:
        if math.floor(t) != self.window:
            self.window, self.taken = math.floor(t), 0
        self.taken += 1


@dataclass(slots=True)
class Request:
    number: int
    at: float
    prompt: int
    tried: list[str] = field(default_factory=list)
    first: float | None = None
    served: str = ""


@dataclass(slots=True)
class Outcome:
    """How one attempt ended for the policy: cause "" = first token after `seconds`."""

    backend: Backend
    request: Request
    seconds: float
    cause: str
    retry_after_s: float | None = None


class Router(Protocol):
    """A policy in the simulation. `pick` returns None when it has no further backend."""

    name: str

    def pick(self, request: Request, now: float) -> str | None: ...

    def sent(self, request: Request, backend: str, now: float) -> None: ...

    def heard(self, outcome: Outcome, now: float) -> None: ...

    def done(self, request: Request, backend: str, now: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Scenario:
    """`recovered`: (backend, time) pairs at which it is again the fastest. `bar`: a causal policy can meet the bar."""

    name: str
    make: Callable[[random.Random], list[Backend]]
    rate: float = 12.0
    seconds: float = 250.0
    recovered: tuple[tuple[str, float], ...] = ()
    bar: bool = True


def requests_of(scenario: Scenario, rng: random.Random) -> list[Request]:
    """Poisson arrivals; prompt lengths are lognormal around 500 tokens, up to 8000."""
    found: list[Request] = []
    t = 0.0
    while True:
        t += rng.expovariate(scenario.rate)
        if t >= scenario.seconds:
            return found
        found.append(Request(len(found), t, min(8000, int(rng.lognormvariate(math.log(500), 0.8)))))


def simulate(
    scenario: Scenario, seed: int, make_router: Callable[[list[Backend], random.Random], Router]
) -> list[Request]:
    """All requests of one run, with the time to the first token and who served. Each policy meets the same world."""
    world = random.Random(f"{scenario.name}/{seed}")
    backends = {b.name: b for b in scenario.make(world)}
    requests = requests_of(scenario, world)
    noises = [{name: math.exp(world.gauss(0, NOISE)) for name in backends} for _ in requests]
    router = make_router(list(backends.values()), random.Random(f"{scenario.name}/{seed}/policy"))
    events: list[tuple[float, int, str, Request, Outcome | str | None]] = []
    count = 0

    def push(at: float, what: str, request: Request, detail: Outcome | str | None = None) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (at, count, what, request, detail))

    for request in requests:
        push(request.at, "try", request)
    while events:
        now, _, what, request, detail = heapq.heappop(events)
        if what == "try":
            name = router.pick(request, now)
            if name is None:
                request.first = now - request.at + FIRST_S  # nothing answered: as bad as waiting in vain
                continue
            b = backends[name]
            request.tried.append(name)
            router.sent(request, name, now)
            health = b.health(now)
            if health == "refused":
                push(now + REFUSE_S, "heard", request, Outcome(b, request, REFUSE_S, "refused"))
            elif b.limited(now):
                push(now + LIMITED_S, "heard", request, Outcome(b, request, LIMITED_S, "rate_limited", b.retry_after_s))
            else:
                seconds = b.expected(request.prompt, now) * noises[request.number][name]
                b.take(now)
                if health == "stall" or seconds > FIRST_S:
                    push(now + FIRST_S, "heard", request, Outcome(b, request, FIRST_S, "timeout"))
                else:
                    push(now + seconds, "heard", request, Outcome(b, request, seconds, ""))
            b.in_flight += 1
        elif what == "heard":
            assert isinstance(detail, Outcome)
            router.heard(detail, now)
            if detail.cause:
                detail.backend.in_flight -= 1
                router.done(request, detail.backend.name, now)
                push(now, "try", request)
            else:
                request.first, request.served = now - request.at, detail.backend.name
                push(now + ITL_S * OUTPUT_TOKENS, "done", request, detail.backend.name)
        else:
            assert isinstance(detail, str)
            backends[detail].in_flight -= 1
            router.done(request, detail, now)
    return requests
