"""What the head is set up with, hands out and counts. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exo_node.limits.memory import Level
from exo_node.ring.messages import Epoch, Step
from exo_node.ring.residents import PoolRules


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSetup(PoolRules):
    """What a Configure told the head. `vector_bytes` is one hidden vector on the wire.

    `speculation`: rows may carry drafted tokens (never where `reproducible`: a longer row's bits differ).
    """

    epoch: Epoch
    n_stages: int
    vocab_size: int
    vector_bytes: int
    max_waiting: int = 256  # requests that queue for a slot before new ones are told to come back later
    speculation: bool = False


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A step to run: `tokens[i]` are the ids of row i."""

    step: Step
    tokens: tuple[Sequence[int], ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """How much memory this machine has left; told again and again while it is little. `words`: for errors."""

    level: Level = "ok"
    words: str = ""


@dataclass(slots=True)
class Counts:
    """Since the epoch began."""

    tokens: int = 0  # delivered
    drafted: int = 0
    accepted: int = 0
    preempted: int = 0
