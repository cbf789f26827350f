"""What the adapter is put together from, and what the user may choose of its behaviour."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from exo_node.routing.adapter.hedge import HedgeBudget
from exo_node.routing.adapter.ports import Breaker, Check, Choose, Gate, OpenGate, Profile, RetryBudget, Sources
from exo_node.routing.call import CallSink, Continuation


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The node's settings, where a request says nothing (`Wishes`). `max_cost`: USD a request may be predicted at."""

    strategy: str = "latency"
    continuation: Continuation = "same-model"
    hedge: bool = False
    max_cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that the adapter uses. `clock` is monotonic, in seconds; `check` judges a cascade's answers."""

    sources: Sources
    choose: Choose
    profile: Profile
    breaker: Breaker
    retries: RetryBudget
    gate: Gate = field(default_factory=OpenGate)
    sinks: Sequence[CallSink] = ()
    check: Check | None = None
    hedges: HedgeBudget = field(default_factory=HedgeBudget)
    clock: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=random.Random)
