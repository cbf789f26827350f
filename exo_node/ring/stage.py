"""One stage at work: the rules of `shard.py` joined to an engine. Head and followers run the same code.

Everything here happens on the engine's thread; nothing waits for anything but the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exo_node.engine.base import EngineRow, Hidden, ShardEngine
from exo_node.errors import ExoError, RingBroken
from exo_node.ring.boundary_log import BoundaryLog
from exo_node.ring.messages import NO_EPOCH, Epoch, Failure, Kept, Report, Row, Step
from exo_node.ring.progress import Turns
from exo_node.ring.shard import ShardLogic, StepPlan, Truncate
from exo_node.types import DTYPE_BYTES, Dtype


@dataclass(frozen=True, slots=True)
class StageResult:
    """`step` is what goes on to the next stage, without this stage's report.

    `activation` is the engine's own (a ring of one takes the logits from it without any bytes); None where nothing was
    computed.
    """

    step: Step
    activation: Any | None
    engine_us: int


class Stage:
    """A shard of one instance: checks steps, runs them, reports."""

    def __init__(
        self,
        engine: ShardEngine,
        logic: ShardLogic,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        turns: Turns | None = None,
    ) -> None:
        """`turns` is told what the engine is asked for."""
        self.clock_ns = clock_ns
        self._engine = engine
        self._turns = turns or Turns()
        self.logic = logic
        self.wire_dtype: Dtype = "float32"
        self.int8_rows = False
        self._log = BoundaryLog()
        self.computed_tokens = 0  # since the process began
        # Set from another thread, ahead of the event that says so: what is queued of older epochs is not begun.
        self.cutoff = NO_EPOCH

    def configure(
        self,
        epoch: Epoch,
        stage: int,
        n_stages: int,
        wire_dtype: Dtype,
        int8_rows: bool = False,
        kept: Sequence[Kept] = (),
        kept_from: int = 0,
    ) -> None:
        """Start an epoch with nothing in the pool but what is `kept`. Raises `RingBroken` for a stale epoch, or where
        that cannot be had (`ShardLogic.configure`)."""
        mine = {one.sequence: one.length for one in kept if one.is_held(stage, kept_from)}
        fed = [one for one in kept if one.lost_from == stage + 1]
        if any(self._log.length(one.sequence) < one.length for one in fed):
            raise RingBroken("what this stage sent on is not logged any more", code="cannot_keep", status=409)
        for call in self.logic.configure(epoch, stage, n_stages, kept, kept_from):
            self._engine.truncate(call.slot, call.length)
        self.logic.ran()
        if wire_dtype != self.wire_dtype:
            self._log.recast(self.wire_dtype, wire_dtype)
        self._log.keep(mine)
        self.wire_dtype, self.int8_rows = wire_dtype, int8_rows

    def fence(self, epoch: Epoch) -> tuple[Kept, ...]:
        """See `ShardLogic.fence`."""
        return tuple(replace(one, logged=self._log.length(one.sequence)) for one in self.logic.fence(epoch))

    def is_over(self, epoch: Epoch) -> bool:
        """Whether nothing of `epoch` is to be begun any more, as far as anybody has told."""
        return epoch != self.logic.epoch or epoch < self.cutoff

    def run(self, step: Step, tokens: Sequence[Sequence[int]] | None = None, *, export: bool = True) -> StageResult:
        """Check and compute `step`; `tokens[i]` are row i's token ids (head only).

        Never raises for what a step holds or what the engine does: such an error travels home as the step's failure.
        """
        if step.failure is not None:
            self.logic.breaks(step.failure.message)
            return StageResult(replace(step, hidden=None), None, 0)
        started = self.clock_ns()
        try:
            plan = self.logic.plan(step)
            activation, hidden = self._compute(step, plan, tokens, export)
        except ExoError as error:
            failure = Failure(self.logic.stage, error.code or "ring_broken", error.message)
        # An engine raises whatever its framework raises; uncaught it would end the thread and say nothing to the head.
        except Exception as error:
            failure = Failure(
                self.logic.stage, "engine_failed", f"{self._engine.name}: {type(error).__name__}: {error}"
            )
        else:
            self.logic.ran()
            engine_us = (self.clock_ns() - started) // 1000
            return StageResult(replace(step, hidden=hidden), activation, engine_us)
        self.logic.breaks(failure.message)
        return StageResult(step.failed(failure), None, (self.clock_ns() - started) // 1000)

    def report(self, *, queue_us: int, engine_us: int, codec_us: int) -> Report:
        """This stage's report of the step it has just run."""
        logic = self.logic
        return Report(logic.stage, queue_us, engine_us, codec_us, logic.sequences, logic.cached_tokens)

    def give_back(self) -> None:
        """See `ShardEngine.give_back`."""
        self._engine.give_back()

    def kv_bytes(self) -> int:
        """See `ShardEngine.kv_bytes`."""
        return self._engine.kv_bytes()

    def logits(self, activation: Any | Hidden, outputs: Sequence[int] | None = None) -> Any:
        """Head only: float32 [outputs, vocab] of what came home."""
        self._turns.uses("logits", 1 if outputs is None else len(outputs))
        return self._engine.logits(activation, outputs)

    def scores(self, activation: Any | Hidden, outputs: range) -> Any:
        """Head only: see `ShardEngine.scores`."""
        self._turns.uses("scores", len(outputs))
        return self._engine.scores(activation, outputs)

    def states(self, activation: Any | Hidden, outputs: range) -> Any:
        """Head only: see `ShardEngine.states`."""
        self._turns.uses("states", len(outputs))
        return self._engine.states(activation, outputs)

    def _compute(
        self, step: Step, plan: StepPlan, tokens: Sequence[Sequence[int]] | None, export: bool
    ) -> tuple[Any | None, Hidden | None]:
        computed = (row.length for row, slot in zip(step.rows, plan.slots, strict=True) if slot >= 0)
        self._turns.uses("forward", sum(computed))
        for call in plan.calls:
            if isinstance(call, Truncate):
                self._engine.truncate(call.slot, call.length)
            else:
                self._engine.copy(call.target, call.source, call.length)
        self._log.follow(step.ops)
        self._check_payload(step, tokens)
        if not plan.n_computed:
            return None, self._merge(step, plan, None)
        rows = [
            EngineRow(
                slot,
                row.position,
                row.length,
                None if tokens is None else np.asarray(tokens[index], np.int32),
                row.n_outputs,
            )
            for index, (row, slot) in enumerate(zip(step.rows, plan.slots, strict=True))
            if slot >= 0
        ]
        every = plan.n_computed == len(step.rows)
        received = None if tokens is not None else step.hidden if every else self._select(step, plan)
        activation = self._engine.forward(rows, received)
        self.computed_tokens += sum(row.length for row in rows)
        if not export:
            return activation, None
        hidden = self._engine.export(activation, self.wire_dtype)
        last = self.logic.n_stages - 1
        if self.logic.stage < last:
            self._write(step, plan, hidden)
        whole = every and (self.logic.stage == last or all(self.logic.stage < row.last_stage for row in step.rows))
        return activation, hidden if whole else self._merge(step, plan, hidden)

    def _check_payload(self, step: Step, tokens: Sequence[Sequence[int]] | None) -> None:
        """The head's computed rows come with token ids, a follower's with exactly one vector per token."""
        if self.logic.stage == 0 and tokens is not None:
            if [row.length for row in step.rows] != [len(ids) for ids in tokens]:
                raise RingBroken(f"step {step.number}: rows and token ids differ in length")
            return
        wanted = sum(row.vectors_behind(self.logic.stage - 1) for row in step.rows)
        carried = 0 if step.hidden is None else step.hidden.shape[0]
        if wanted != carried:
            raise RingBroken(f"step {step.number} carries {carried} hidden vectors for {wanted} tokens")

    def _merge(self, step: Step, plan: StepPlan, computed: Hidden | None) -> Hidden | None:
        """The outgoing payload where some rows are only passed on, or go no further, in row order."""
        received = step.hidden
        like = computed or received
        kinds = {(one.dtype, one.shape[1]) for one in (computed, received) if one is not None}
        if len(kinds) > 1:
            raise RingBroken(f"rows passed on and those computed here are {kinds}")
        stage, last = self.logic.stage, self.logic.n_stages - 1
        pieces: list[memoryview] = []
        taken = given = 0
        for row, slot in zip(step.rows, plan.slots, strict=True):
            came, goes = row.vectors_behind(stage - 1), row.vectors_behind(stage)
            if slot >= 0:
                assert computed is not None
                made = row.n_outputs if stage == last else row.length
                pieces.append(_vectors(computed, given + made - goes, goes))
                given += made
            elif goes <= came:
                if goes:
                    assert received is not None
                    pieces.append(_vectors(received, taken + came - goes, goes))
            elif (again := self._log.read(row.sequence, row.position, goes)) is not None:
                pieces.append(again)
            else:
                raise RingBroken(f"what went on from stage {stage} of sequence {row.sequence} is not logged any more")
            taken += came
        if like is None and not pieces:
            return None
        dtype = self.wire_dtype if like is None else like.dtype
        size = self._log.vector_bytes if like is None else like.shape[1] * DTYPE_BYTES[dtype]
        data = b"".join(pieces)
        if not size:
            return None  # nothing went on from here yet
        return Hidden(dtype, (len(data) // size, size // DTYPE_BYTES[dtype]), data)

    def _write(self, step: Step, plan: StepPlan, computed: Hidden) -> None:
        """Log what goes on, or would."""
        given = 0
        for row, slot in zip(step.rows, plan.slots, strict=True):
            if slot >= 0:
                size = computed.shape[1] * DTYPE_BYTES[computed.dtype]
                self._log.write(row.sequence, row.position, _vectors(computed, given, row.length), size)
                given += row.length

    def _select(self, step: Step, plan: StepPlan) -> Hidden:
        """The received vectors of the rows that are computed here."""
        received = step.hidden
        assert received is not None
        pieces: list[memoryview] = []
        offset = 0
        count = 0
        for row, slot in zip(step.rows, plan.slots, strict=True):
            if slot >= 0:
                pieces.append(_vectors(received, offset, row.length))
                count += row.length
            offset += row.vectors_behind(self.logic.stage - 1)
        return Hidden(received.dtype, (count, received.shape[1]), b"".join(pieces))


def _vectors(hidden: Hidden, start: int, count: int) -> memoryview:
    size = hidden.shape[1] * DTYPE_BYTES[hidden.dtype]
    return memoryview(hidden.data)[start * size : (start + count) * size]


def output_offsets(rows: Sequence[Row]) -> list[int]:
    """Where each row's outputs begin in what comes home.

    >>> output_offsets([Row(1, 0, 4, 1), Row(2, 0, 4, 0), Row(3, 9, 1, 1)])
    [0, 1, 1]
    """
    offsets = []
    total = 0
    for row in rows:
        offsets.append(total)
        total += row.n_outputs
    return offsets
