"""What the adapter needs of the rest, as protocols: who may serve, who is chosen, what is remembered, what it may take.

The daemon puts the real ones together (registry, policy, profile, breaker, retry budget, limits); tests put in plain
objects. Times are seconds on `time.monotonic()`'s clock, prices USD.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from exo_node.routing.call import Call, Upstream, UpstreamError
from exo_node.routing.plan import Ask, BreakerView, Candidate, ProfileView, RoutePlan


class Sources(Protocol):
    """The registry: backends by name, and how to ask one."""

    async def candidates(self, call: Call) -> list[Candidate]:
        """Every backend that might serve the call, also those ruled out (`Candidate.rejected`).

        Raises `ModelNotFound` where nothing knows the name.
        """
        ...

    def upstream(self, candidate: Candidate) -> Upstream:
        """Raises `UpstreamError` ("unavailable") where the backend has gone since it was listed."""
        ...


class Choose(Protocol):
    """policy.choose."""

    def __call__(
        self,
        candidates: Sequence[Candidate],
        ask: Ask,
        profile: ProfileView,
        breaker: BreakerView,
        now: float,
        rng: random.Random,
    ) -> RoutePlan: ...


class Profile(ProfileView, Protocol):
    """The latency profile, written to. `key` names the attempt, so that its load and its waiting are known."""

    def started(
        self, backend: str, now: float | None = None, key: object = None, prompt_tokens: int | None = None
    ) -> None: ...

    def ended(self, backend: str, key: object = None) -> None: ...

    def observe_ttft(
        self, candidate: Candidate, prompt_tokens: int, ttft_s: float, now: float, key: object = None
    ) -> None: ...

    def observe_itl(self, candidate: Candidate, itl_s: float, tokens: int, now: float) -> None: ...

    def used(self, candidate: Candidate, tokens: int, now: float) -> None: ...

    def observe_failure(
        self, candidate: Candidate, cause: str, waited_s: float, now: float, key: object = None
    ) -> None: ...


class Breaker(BreakerView, Protocol):
    """The circuit breaker, told how attempts ended."""

    def begin(self, candidate: Candidate, now: float) -> bool:
        """The backend is about to be asked; False: it is open, and asked for want of a better one."""
        ...

    def released(self, candidate: Candidate, begun: float) -> None:
        """The attempt that was announced at `begun` ended without a verdict."""
        ...

    def answering(self, candidate: Candidate, now: float) -> None:
        """The attempt's first content has come."""
        ...

    def succeeded(self, candidate: Candidate, now: float) -> None: ...

    def failed(self, candidate: Candidate, error: UpstreamError, now: float) -> None: ...


class RetryBudget(Protocol):
    """How many repeats this node may send in proportion to first tries."""

    def deposit(self, now: float) -> None:
        """A request came."""
        ...

    def withdraw(self, now: float) -> bool:
        """Take one repeat; False: there is none left now."""
        ...


class Gate(Protocol):
    """Rate limits and budgets of a deployment, at the moment of asking."""

    async def acquire(self, candidate: Candidate, tokens: int, cost: float | None) -> bool:
        """Take one request and `tokens` of room (and keep `cost` USD free; None: not known); False: no room now."""
        ...

    def why_full(self, candidate: Candidate, tokens: int, cost: float | None) -> tuple[str, float | None]:
        """What `acquire` found no room in, and the seconds until there probably is some; None: not known."""
        ...

    def settle(self, candidate: Candidate, reserved: int, used: int, cost: float) -> None:
        """What `acquire` took, and what was really used. Does not wait (called while a task is being cancelled)."""
        ...


class OpenGate:
    """No limits."""

    async def acquire(self, candidate: Candidate, tokens: int, cost: float | None) -> bool:
        return True

    def why_full(self, candidate: Candidate, tokens: int, cost: float | None) -> tuple[str, float | None]:
        return "", None

    def settle(self, candidate: Candidate, reserved: int, used: int, cost: float) -> None:
        return None


# A user's own check of a cascade's answer: None, or why it is not good enough.
Check = Callable[[Call, dict[str, Any]], str | None]
