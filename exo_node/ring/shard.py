"""The rules that every stage keeps (ARCHITECTURE 3.3), as pure logic: a step comes in, engine calls come out.

The stage trusts no sender: a gap, a duplicate, a reordering, a reused id or a wrong position raises `RingBroken`, which
ends the epoch. Nothing is ever trimmed unless a row says `rollback`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exo_node.errors import RingBroken
from exo_node.ring.kv_account import KvAccount, Pool
from exo_node.ring.messages import NO_EPOCH, Copy, Drop, Epoch, Kept, Op, Rename, Row, Step


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
        self._known: set[int] = set()  # used ids that may come again: other stages have kept what this one has not
        self._fenced = False
        self._in_doubt = False  # a step is under way, or broke off: what the engine holds may not be what is said here

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

    @property
    def highest(self) -> int:
        """The largest sequence id that was ever used, as far as it is known here."""
        return self._highest

    def fence(self, epoch: Epoch) -> tuple[Kept, ...]:
        """End what runs and wait for the Configure of `epoch`, which is larger. Returns what is held, by id.

        Nothing, where a step broke off half-way: nobody knows what the engine holds then.
        """
        check_newer(epoch, self.epoch)
        self.epoch, self._fenced = epoch, True
        self.breaks(f"epoch {epoch} has begun and waits for its Configure")
        account = self._account
        return () if self._in_doubt else tuple(Kept(s, account.length(s), account.most(s)) for s in sorted(self._slots))

    def configure(
        self, epoch: Epoch, stage: int, n_stages: int, kept: Sequence[Kept] = (), kept_from: int = 0
    ) -> tuple[Truncate, ...]:
        """Start `epoch`: a larger one than ours, or the fence's. Returns calls that leave in the pool what is kept;
        the caller says by `ran` that the engine has done them.

        A stage cuts the sequences that it is to hold of those `kept` to their lengths, and forgets all others; but it
        takes rows of these ids. Raises `RingBroken`, with nothing changed, where it does not hold what it is to keep.
        Ids that were used before a fence stay used.
        """
        fenced = self._fenced and epoch == self.epoch
        if not fenced:
            check_newer(epoch, self.epoch)
        if not 0 <= stage < n_stages:
            raise RingBroken(f"stage {stage} of {n_stages} does not exist", code="bad_configuration", status=400)
        mine = {one.sequence: one.length for one in kept if one.is_held(stage, kept_from)}
        for sequence, length in mine.items():
            self._check_kept(sequence, length, fenced)
        slots, account = {one: self._slots[one] for one in mine}, KvAccount(self.pool)
        calls = [Truncate(slot, 0) for slot in range(self.pool.slots) if slot not in slots.values()]
        for sequence, length in mine.items():
            if length < self._account.length(sequence):
                calls.append(Truncate(slots[sequence], length))
            account.keep(Kept(sequence, length, self._account.most(sequence)))
        self.epoch, self.stage, self.n_stages = epoch, stage, n_stages
        self.steps = 0
        self._broken, self._fenced, self._in_doubt = None, False, True
        self._slots, self._account = slots, account
        self._free = [slot for slot in range(self.pool.slots) if slot not in slots.values()]
        used = {one.sequence for one in kept}
        self._known = used - mine.keys()
        self._highest = max(used | {self._highest if fenced else 0})
        return tuple(calls)

    def _check_kept(self, sequence: int, length: int, fenced: bool) -> None:
        held = 0 if self._in_doubt or not fenced else self._account.length(sequence)
        if not 0 < length <= held or (length < held and not self._account.can_cut(sequence, length)):
            why = "which this stage was not fenced for" if not fenced else f"this stage can give of {held}"
            raise RingBroken(
                f"{length} tokens of sequence {sequence} are to be kept, {why}: fence it again, and keep less",
                code="cannot_keep",
                status=409,
            )

    def breaks(self, reason: str) -> None:
        """Note that the epoch is over: every further step is refused."""
        self._broken = self._broken or reason

    def ran(self) -> None:
        """The engine has done all that `plan` or `configure` said last."""
        self._in_doubt = False

    def plan(self, step: Step) -> StepPlan:
        """Check `step` and account for it. Raises `RingBroken`, after which the epoch is over on this stage.

        The caller says by `ran` that the engine has done it."""
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
        self._in_doubt = True
        calls: list[Truncate | CopySlot] = []
        for op in step.ops:
            calls += self._operate(op)
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
            slot = self._take(row.sequence, known=row.sequence in self._known)
        self._account.hold(row.sequence, row.position + row.length)
        self._check_room()
        return slot

    def _check_room(self) -> None:
        if self._account.free_tokens < 0:
            missing = -self._account.free_tokens
            raise RingBroken(f"the KV pool holds {self._account.kv_tokens} tokens; the steps ask for {missing} more")

    def _new_id(self, sequence: int) -> None:
        if sequence <= self._highest:
            raise RingBroken(f"sequence id {sequence} was used before")
        self._highest = sequence

    def _take(self, sequence: int, *, known: bool = False) -> int:
        if known:
            self._known.remove(sequence)
        else:
            self._new_id(sequence)
        if not self._free:
            raise RingBroken(f"no free KV slot for sequence {sequence}: all {self.pool.slots} are in use")
        slot = min(self._free)
        self._free.remove(slot)
        self._slots[sequence] = slot
        return slot

    def _operate(self, op: Op) -> list[Truncate | CopySlot]:
        match op:
            case Drop(sequence) if sequence in self._known:
                self._known.remove(sequence)
                return []
            case Drop(sequence):
                return [self._drop(sequence)]
            case Copy():
                return [self._copy(op)]
            case Rename():
                return self._rename(op)

    def _drop(self, sequence: int) -> Truncate:
        slot = self._slots.pop(sequence, None)
        if slot is None:
            raise RingBroken(f"sequence {sequence} is to be dropped but is not here")
        self._account.drop(sequence)
        self._free.append(slot)
        return Truncate(slot, 0)

    def _rename(self, op: Rename) -> list[Truncate | CopySlot]:
        slot = self._source(op, "renamed")
        held = self._account.length(op.source)
        self._new_id(op.target)
        self._slots[op.target] = self._slots.pop(op.source)
        self._account.rename(op.target, op.source, op.length)
        return [Truncate(slot, op.length)] if op.length < held else []

    def _source(self, op: Copy | Rename, done: str) -> int:
        """The slot of `op.source`, which has what `op` wants of it."""
        source = self._slots.get(op.source)
        if source is None:
            raise RingBroken(f"sequence {op.source} is to be {done} but is not here")
        held = self._account.length(op.source)
        if not 0 < op.length <= held:
            raise RingBroken(f"{op.length} tokens of sequence {op.source} are to be {done}; it holds {held}")
        if not self._account.can_cut(op.source, op.length):
            raise RingBroken(
                f"{op.length} tokens of sequence {op.source} are to be {done}, which holds {held}; "
                f"this stage keeps {self.pool.rollback_depth} to roll back"
            )
        return source

    def _copy(self, op: Copy) -> CopySlot:
        source = self._source(op, "copied")
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
