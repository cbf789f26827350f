"""What travels the ring, as plain data (ARCHITECTURE 3.3). `wire.py` turns these into protobuf and back.

A step's payload holds, in row order, `length` hidden vectors per row on every hop up to its `last_stage`, behind that
its trailing `n_outputs`. A stage outside a row's `[first_stage, last_stage]` passes the row's vectors on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exo_node.engine.base import Hidden


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """A fencing token: the larger (counter, coordinator) wins (ARCHITECTURE 3.11)."""

    counter: int
    coordinator: str

    def __str__(self) -> str:
        return f"{self.counter}/{self.coordinator}"


NO_EPOCH = Epoch(0, "")


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a sequence and free its slot."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Copy:
    """A new sequence `target` that holds the first `length` cached tokens of `source`."""

    target: int
    source: int
    length: int


@dataclass(frozen=True, slots=True)
class Rename:
    """The first `length` cached tokens of `source`, which is no more, belong to a new sequence `target`: another
    request's, for an id stays with one request for ever (who comes back with its id finds its own tokens or none)."""

    target: int
    source: int
    length: int


Op = Drop | Copy | Rename


@dataclass(frozen=True, slots=True)
class Kept:
    """A sequence that outlives its epoch: `length` tokens of it. It has held `most` (see `Pool.rollback_depth`).

    `logged`: of what a stage has sent on for it, so many tokens can be sent again. `lost_from`: see `KeptSequence`.
    """

    sequence: int
    length: int
    most: int
    logged: int = 0
    lost_from: int = 0

    def is_held(self, stage: int, kept_from: int) -> bool:
        """Whether the stage is one of those that have kept it."""
        return stage >= kept_from or stage < self.lost_from


@dataclass(frozen=True, slots=True)
class Row:
    """`length` tokens of `sequence` from `position` on; see `Row` in ring.proto."""

    sequence: int
    position: int
    length: int
    n_outputs: int
    rollback: bool = False
    first_stage: int = 0
    last_stage: int = 0

    def vectors_behind(self, stage: int) -> int:
        """How many vectors of it travel from `stage` to the next.

        >>> [Row(1, 0, 4, 1, last_stage=1).vectors_behind(stage) for stage in range(3)]
        [4, 1, 1]
        """
        if stage < self.first_stage - 1:
            return 0
        return self.length if stage < self.last_stage else self.n_outputs


@dataclass(frozen=True, slots=True)
class Report:
    """What a stage says of one step: microseconds, and its pool after the step (an assertion for the head)."""

    stage: int
    queue_us: int
    engine_us: int
    codec_us: int
    sequences: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The error of stage `stage`; `code` is an `ExoError` code."""

    stage: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Step:
    """One micro-batch on its way round. `number` counts from 1 per epoch, without gaps on every hop."""

    epoch: Epoch
    number: int
    ops: tuple[Op, ...] = ()
    rows: tuple[Row, ...] = ()
    hidden: Hidden | None = None
    reports: tuple[Report, ...] = ()
    failure: Failure | None = None

    def failed(self, failure: Failure) -> Step:
        """The same step without payload, carrying `failure` home."""
        return replace(self, hidden=None, failure=failure)
