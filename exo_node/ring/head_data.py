"""What the head is set up with, hands out and counts. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exo_node.ring.kv_account import BLOCK
from exo_node.ring.messages import Epoch, Step
from exo_node.ring.residents import PoolRules


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSetup:
    """What a Configure told the head: the pools' smallest figures. `vector_bytes` is one hidden vector on the wire.

    `kv_tokens`, `block`, `rollback_depth`, `copy_any`, `prefix_cache`, `reproducible`: see `residents.PoolRules`.
    `speculation`: rows may carry drafted tokens (never where `reproducible`: a longer row's bits differ).
    """

    epoch: Epoch
    n_stages: int
    slots: int
    context: int
    max_chunk: int
    vocab_size: int
    vector_bytes: int
    max_waiting: int = 1024  # requests that queue for a slot before new ones are told to come back later
    kv_tokens: int = 0
    block: int = BLOCK
    rollback_depth: int | None = None
    copy_any: bool = True
    prefix_cache: bool = False
    speculation: bool = False
    reproducible: bool = False

    def pool_rules(self) -> PoolRules:
        return PoolRules(
            slots=self.slots,
            context=self.context,
            max_chunk=self.max_chunk,
            kv_tokens=self.kv_tokens,
            block=self.block,
            rollback_depth=self.rollback_depth,
            copy_any=self.copy_any,
            keep=self.prefix_cache,
            reproducible=self.reproducible,
        )


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A step to run: `tokens[i]` are the ids of row i."""

    step: Step
    tokens: tuple[Sequence[int], ...]


@dataclass(slots=True)
class Counts:
    """Since the epoch began."""

    tokens: int = 0  # delivered
    drafted: int = 0
    accepted: int = 0
    preempted: int = 0
