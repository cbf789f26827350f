"""The rules that every stage keeps (ARCHITECTURE 3.3), as pure logic: a step comes in, engine calls come out.

The stage trusts no sender: a gap, a duplicate, a reordering, a reused id or a wrong position raises `RingBroken`, which
ends the epoch. Nothing is ever trimmed unless a row says `rollback`.
"""

from __future__ import annotations

from dataclasses import dataclass

from exo_node.errors import RingBroken
from exo_node.ring.kv_account import KvAccount, Pool
from exo_node.ring.messages import NO_EPOCH, Copy, Drop, Epoch, Row, Step


@dataclass(frozen=True, slots=True)
class Truncate:
    """Engine call: forget all but the first `length` tokens of `slot`."""

    slot: int
    length: int


@dataclass(frozen=True, slots=True)
class CopySlot:
    """Engine call: `target` = first `length` tokens of `source` (slots, not sequences)."""

    target: int
    source: int
    length: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What the engine is to do: `calls` in order, then one forward over `rows` in `slots`.

    `computed[i]` tells whether row i of the step runs here; `slots[i]` is its slot, or -1 for a row passed on.
    """

    calls: tuple[Truncate | CopySlot, ...]
    slots: tuple[int, ...]
    n_computed: int


class ShardLogic:
    """Epoch, step counter, and the map sequence -> (slot, cached length) of one stage."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.epoch = NO_EPOCH
        self.stage = 0
        self.n_stages = 1
        self.steps = 0
        self._broken: str | None = None
        self._slots: dict[int, int] = {}
        self._account = KvAccount(self.pool)
        self._free = list(range(pool.slots))
        self._highest = 0  # ids ascend at first use, so one number tells used ids from new ones

    @property
    def sequences(self) -> int:
        """KV slots in use."""
        return len(self._slots)

    @property
    def cached_tokens(self) -> int:
        return self._account.cached_tokens

    @property
    def broken(self) -> str | None:
        """Why this epoch is over, or None."""
        return self._broken

    def configure(self, epoch: Epoch, stage: int, n_stages: int) -> tuple[Truncate, ...]:
        """Start `epoch`, forgetting everything; only a larger one is accepted. Returns calls that empty the pool."""
        check_newer(epoch, self.epoch)
        if not 0 <= stage < n_stages:
            raise RingBroken(f"stage {stage} of {n_stages} does not exist", code="bad_configuration", status=400)
        calls = tuple(Truncate(slot, 0) for slot in sorted(self._slots.values()))
        self.epoch, self.stage, self.n_stages = epoch, stage, n_stages
        self.steps = self._highest = 0
        self._broken = None
        self._slots, self._account = {}, KvAccount(self.pool)
        self._free = list(range(self.pool.slots))
        return calls

    def breaks(self, reason: str) -> None:
        """Note that the epoch is over: every further step is refused."""
        self._broken = self._broken or reason

    def plan(self, step: Step) -> StepPlan:
        """Check `step` and account for it. Raises `RingBroken`, after which the epoch is over on this stage."""
        if self._broken is not None:
            raise RingBroken(self._broken)
        try:
            return self._plan(step)
        except RingBroken as error:
            self._broken = error.message
            raise

    def _plan(self, step: Step) -> StepPlan:
        if step.epoch != self.epoch:
            raise RingBroken(
                f"step {step.number} is of epoch {step.epoch}, this stage is at {self.epoch}", code="stale_epoch"
            )
        if step.number != self.steps + 1:
            raise RingBroken(
                f"step {step.number} arrived where step {self.steps + 1} was due: lost, doubled or out of order"
            )
        self.steps = step.number
        calls: list[Truncate | CopySlot] = []
        for op in step.ops:
            calls.append(self._drop(op.sequence) if isinstance(op, Drop) else self._copy(op))
        seen: set[int] = set()
        slots: list[int] = []
        n_computed = 0
        for row in step.rows:
            if row.sequence in seen:
                raise RingBroken(f"step {step.number} has two rows of sequence {row.sequence}")
            seen.add(row.sequence)
            self._check_shape(row)
            if row.first_stage <= self.stage <= row.last_stage:
                slots.append(self._append(row, calls))
                n_computed += 1
            else:
                slots.append(-1)
        return StepPlan(tuple(calls), tuple(slots), n_computed)

    def _check_shape(self, row: Row) -> None:
        if not 0 < row.length <= self.pool.max_chunk or not 0 <= row.n_outputs <= row.length:
            raise RingBroken(
                f"a row of sequence {row.sequence} has {row.length} tokens and {row.n_outputs} outputs; "
                f"this stage takes 1 to {self.pool.max_chunk} tokens"
            )
        if not 0 <= row.first_stage <= row.last_stage < self.n_stages:
            raise RingBroken(
                f"a row of sequence {row.sequence} names stages {row.first_stage} to {row.last_stage} "
                f"of {self.n_stages}"
            )

    def _append(self, row: Row, calls: list[Truncate | CopySlot]) -> int:
        slot = self._slots.get(row.sequence)
        cached = self._account.length(row.sequence)
        if row.position != cached:
            if not row.rollback or row.position > cached:
                raise RingBroken(
                    f"sequence {row.sequence} holds {cached} tokens here, a row continues at {row.position}"
                )
            if not self._account.can_cut(row.sequence, row.position):
                depth = self.pool.rollback_depth
                raise RingBroken(f"a rollback by {cached - row.position} tokens; this stage keeps {depth}")
            assert slot is not None
            calls.append(Truncate(slot, row.position))
        if row.position + row.length > self.pool.context:
            raise RingBroken(
                f"sequence {row.sequence} would hold {row.position + row.length} tokens; "
                f"the pool's context is {self.pool.context}"
            )
        if slot is None:
            slot = self._take(row.sequence)
        self._account.hold(row.sequence, row.position + row.length)
        self._check_room()
        return slot

    def _check_room(self) -> None:
        if self._account.free_tokens < 0:
            missing = -self._account.free_tokens
            raise RingBroken(f"the KV pool holds {self._account.kv_tokens} tokens; the steps ask for {missing} more")

    def _take(self, sequence: int) -> int:
        if sequence <= self._highest:
            raise RingBroken(f"sequence id {sequence} was used before")
        if not self._free:
            raise RingBroken(f"no free KV slot for sequence {sequence}: all {self.pool.slots} are in use")
        self._highest = sequence
        slot = min(self._free)
        self._free.remove(slot)
        self._slots[sequence] = slot
        return slot

    def _drop(self, sequence: int) -> Truncate:
        slot = self._slots.pop(sequence, None)
        if slot is None:
            raise RingBroken(f"sequence {sequence} is to be dropped but is not here")
        self._account.drop(sequence)
        self._free.append(slot)
        return Truncate(slot, 0)

    def _copy(self, op: Copy) -> CopySlot:
        source = self._slots.get(op.source)
        if source is None:
            raise RingBroken(f"sequence {op.source} is to be copied but is not here")
        held = self._account.length(op.source)
        if not 0 < op.length <= held:
            raise RingBroken(f"{op.length} tokens of sequence {op.source} are to be copied; it holds {held}")
        if not self._account.can_cut(op.source, op.length):
            raise RingBroken(
                f"{op.length} tokens of sequence {op.source} are to be copied, which holds {held}; "
                f"this stage keeps {self.pool.rollback_depth} to roll back"
            )
        target = self._take(op.target)
        self._account.copy(op.target, op.source, op.length)
        self._check_room()
        return CopySlot(target, source, op.length)


def check_newer(offered: Epoch, current: Epoch) -> None:
    """Raise `RingBroken` (code stale_epoch, status 409) unless `offered` is larger than `current`."""
    if offered <= current:
        raise RingBroken(
            f"epoch {offered} is not newer than {current}: another coordinator has taken this runner over",
            code="stale_epoch",
            status=409,
        )
