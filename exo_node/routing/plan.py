"""What the policy is given and what it answers. Pure data: times in seconds, costs in USD, `now` from the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from exo_node.routing.call import CallKind, Capability
from exo_node.routing.deployment import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A backend that might serve the call.

    `backend` keys the profile and the breaker: "ring:MODEL", a deployment's id, or "ID@NODE" of a peer. `tier` 0: the
    asked model (and equivalents that may answer at once), 1 and up: fallbacks and equivalents for failure only, in
    order. `equivalent`: another model than the asked one; `model_id`: the same for the same model, however its hosts
    call it. `capacity`: requests it runs at once (a ring's slots; None: unbounded or unknown). `cold_s`: predicted time
    until a ring that is not loaded is ready (0 when loaded).
    `room`: the rate limits and budgets have room now (the adapter takes from them when it really asks); where
    not, `room_in_s` says when they probably will.
    `rejected`: why the registry already rules it out ("no key for openai", "exo-node[litellm] is not installed").
    """

    backend: str
    kind: Literal["ring", "deployment", "peer"]
    provider: str
    model: str
    tier: int = 0
    equivalent: bool = False
    model_id: str = ""
    group: str = ""
    group_strategy: str = ""
    capabilities: frozenset[Capability] = frozenset()
    context: int | None = None
    price: Price | None = None
    capacity: int | None = None
    cold_s: float = 0.0
    weight: float | None = None
    order: int | None = None
    allowed_fails: int | None = None
    cooldown_s: float | None = None
    timeout_s: float | None = None
    stream_timeout_s: float | None = None
    num_retries: int | None = None
    retry_after_s: float | None = None
    task_types: tuple[str, ...] = ()
    node_id: str = ""
    room: bool = True
    room_in_s: float | None = None
    rejected: str = ""

    @property
    def is_free(self) -> bool:
        """Known to cost nothing, whatever is asked."""
        return self.price is not None and self.price.free


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the policy must know of a call. `text` (the last user message, cut) is for heuristic strategies only.
    `longest`, `answers`: see `Call`."""

    kind: CallKind
    model: str
    prompt_tokens: int
    max_tokens: int | None
    stream: bool
    longest: int = 0
    answers: int = 1
    needs: frozenset[Capability] = frozenset()
    strategy: str = "latency"
    max_cost: float | None = None
    provider: str | None = None
    text: str = ""
    hedge: bool = True  # False: `Step.hedge_after_s` need not be worked out
    wished: bool = False  # `strategy` is the request's own wish: it holds inside router groups too


class BreakerView(Protocol):
    def state(self, backend: str, now: float) -> tuple[Literal["closed", "open", "half_open"], float]:
        """(state, seconds until an open one may be tried again)."""
        ...

    def why(self, backend: str) -> str:
        """The cause that opened it; "" when closed."""
        ...


class ProfileView(Protocol):
    """Read access to the latency profile. Never empty-handed: unknown backends get priors."""

    def ttft(self, candidate: Candidate, prompt_tokens: int, now: float) -> float: ...

    def itl(self, candidate: Candidate, now: float) -> float: ...

    def p95_ttft(self, candidate: Candidate, prompt_tokens: int, now: float) -> float | None:
        """None while too little is known to hedge by."""
        ...

    def in_flight(self, backend: str) -> int: ...

    def known(self, candidate: Candidate, now: float) -> float:
        """0..1: how much of the estimate is measurement (the rest is prior)."""
        ...

    def due(self, candidate: Candidate, prompt_tokens: int, now: float) -> float | None:
        """Seconds to the first token that it may well have by now if it is time for another look, else None."""
        ...

    def tokens_this_minute(self, backend: str, now: float) -> int:
        """Tokens of prompts and answers there in the running minute."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One backend of a plan, with what was predicted for it and why it stands here."""

    candidate: Candidate
    ttft_s: float
    total_s: float
    cost: float | None
    reason: str
    hedge_after_s: float | None = None  # at p95: after this long without content (a whole answer) a hedge may start


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """The order in which backends are tried. `rejected`: backend -> why not. `reason` is one line for people.

    `cascade`: the first steps' answers must pass the checks before they are delivered; escalate otherwise.
    """

    strategy: str
    steps: tuple[Step, ...]
    rejected: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    cascade: bool = False
    retry_after_s: float | None = None  # no steps: every backend asked to be left alone, the first for so long
    explored: bool = False  # the first step was chosen to learn about it
