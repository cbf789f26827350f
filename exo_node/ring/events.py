"""What a runner's engine thread is told and tells: events in, steps and notices out. Plain data and contracts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from exo_node.errors import ExoError
from exo_node.ring.head_data import Memory, RingSetup
from exo_node.ring.messages import Epoch, Kept
from exo_node.ring.sampler import Constraint
from exo_node.ring.sequences import Job, Notice
from exo_node.ring.stage import Stage
from exo_node.transport.codec import StepFrame
from exo_node.types import Dtype


@dataclass(frozen=True, slots=True)
class Configure:
    """Start an epoch; `setup` on the head only. `done` resolves when the pool holds what is kept and steps may come."""

    epoch: Epoch
    stage: int
    n_stages: int
    wire_dtype: Dtype
    setup: RingSetup | None
    done: Future[None]
    int8_rows: bool = False  # pack what goes to the next stage, where it may be
    kept: tuple[Kept, ...] = ()  # what outlives the epochs before, in the stages from `kept_from` on
    kept_from: int = 0


@dataclass(frozen=True, slots=True)
class Fence:
    """End what runs; `epoch` will be that of the next Configure. `done` resolves to what the stage holds."""

    epoch: Epoch
    done: Future[Holdings]


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a stage holds at its fence, by ascending sequence id, and the largest id that it has ever seen."""

    held: tuple[Kept, ...]
    highest: int


@dataclass(frozen=True, slots=True)
class StepIn:
    """A step from the stage before. `arrived_ns` is the stage's `clock_ns()` at its arrival."""

    frame: StepFrame
    arrived_ns: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Head only: a new generation; `constraint` where the job has a grammar, with what is there already behind it."""

    ticket: int
    job: Job
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Head only: the caller of a generation has gone."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A neighbour's stream of this epoch broke."""

    epoch: Epoch
    stage: int  # the neighbour
    error: ExoError


Event = Configure | Fence | StepIn | Submit | Cancel | Lost | Memory


class Outlet(Protocol):
    """Where a worker's output goes. Called on the engine thread; must return at once."""

    def send(self, epoch: Epoch, step: bytes) -> None:
        """A serialized `StepMessage` to the next stage."""
        ...

    def notify(self, epoch: Epoch, notices: Sequence[Notice]) -> None:
        """To the callers of generations."""
        ...


class Worker(Protocol):
    """A runner's engine thread, one event at a time."""

    stage: Stage

    def handle(self, event: Event) -> None: ...

    def advance(self) -> bool:
        """Do one piece of work that needs no event; False when there is none."""
        ...

    def wake_at(self) -> float | None:
        """When `advance` has work again without any event (`time.monotonic`)."""
        ...
