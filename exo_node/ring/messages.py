"""What travels the ring, as plain data (ARCHITECTURE 3.3). `wire.py` turns these into protobuf and back.

A step's payload holds, in row order, `length` hidden vectors per row on every hop but the last one home, where it holds
each row's trailing `n_outputs`. A stage outside a row's `[first_stage, last_stage]` passes the row's vectors on.
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


Op = Drop | Copy


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
