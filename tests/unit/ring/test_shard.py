"""The rules of one stage, each by itself; the protocol model mixes them."""

from __future__ import annotations

import copy

import pytest

from exo_node.errors import RingBroken
from exo_node.ring.kv_account import Pool
from exo_node.ring.messages import Copy, Drop, Epoch, Kept, Op, Rename, Row, Step
from exo_node.ring.shard import CopySlot, ShardLogic, StepPlan, Truncate

EPOCH = Epoch(3, "node")


def logic(*, depth: int | None = None, whole: int = 0, stage: int = 0, n_stages: int = 1) -> ShardLogic:
    made = ShardLogic(Pool(slots=2, context=16, max_chunk=8, rollback_depth=depth, whole_tokens=whole))
    made.configure(EPOCH, stage, n_stages)
    return made


def run(shard: ShardLogic, *rows: Row, ops: tuple[Op, ...] = (), number: int | None = None) -> StepPlan:
    plan = shard.plan(Step(shard.epoch, shard.steps + 1 if number is None else number, ops, rows))
    shard.ran()
    return plan


def test_sequences_take_the_lowest_free_slot() -> None:
    """Slots are given out lowest first, and a dropped one is emptied and given out again."""
    shard = logic()
    assert run(shard, Row(1, 0, 4, 1), Row(2, 0, 2, 1)).slots == (0, 1)
    plan = run(shard, Row(3, 0, 1, 1), ops=(Drop(1),))
    assert (plan.calls, plan.slots) == ((Truncate(0, 0),), (0,))
    assert (shard.sequences, shard.cached_tokens) == (2, 3)


def test_ops_run_before_rows() -> None:
    """A copy made by a step can be continued by a row of the same step."""
    shard = logic()
    run(shard, Row(1, 0, 4, 1))
    plan = run(shard, Row(2, 3, 1, 1), ops=(Copy(2, 1, 3),))
    assert plan.calls == (CopySlot(1, 0, 3),)
    assert shard.cached_tokens == 8


@pytest.mark.parametrize("position", [0, 3, 5])
def test_a_wrong_position_is_an_error_never_a_trim(position: int) -> None:
    """A duplicate, an overlap and a gap all break the epoch; nothing is truncated."""
    shard = logic()
    run(shard, Row(1, 0, 4, 1))
    with pytest.raises(RingBroken, match="holds 4 tokens here"):
        run(shard, Row(1, position, 1, 1))
    assert shard.broken is not None


def test_rollback_truncates_only_when_the_row_says_so() -> None:
    """`rollback` truncates to the row's position, within the depth that the engine keeps."""
    shard = logic(depth=2)
    run(shard, Row(1, 0, 6, 1))
    assert run(shard, Row(1, 4, 1, 1, rollback=True)).calls == (Truncate(0, 4),)
    with pytest.raises(RingBroken, match="keeps 2"):
        run(shard, Row(1, 1, 1, 1, rollback=True))


def test_rollbacks_count_from_the_most_that_was_held() -> None:
    """What a stage has forgotten does not come back: two rollbacks reach no further than one, a copy than its source;
    a sequence that never held more than the stage keeps whole goes back to anything."""
    shard = logic(depth=2, whole=6)
    run(shard, Row(1, 0, 6, 1))
    run(shard, Row(1, 1, 1, 1, rollback=True))
    run(shard, Row(1, 2, 5, 1))  # seven now
    assert run(shard, Row(1, 5, 1, 1, rollback=True), ops=(Copy(2, 1, 6),)).calls == (CopySlot(1, 0, 6), Truncate(0, 5))
    for sequence in (1, 2):
        again = copy.deepcopy(shard)
        with pytest.raises(RingBroken, match="keeps 2"):
            run(again, Row(sequence, 4, 1, 1, rollback=True))


def test_a_rollback_cannot_skip_ahead() -> None:
    """A rolled-back row still may not leave a gap."""
    shard = logic()
    with pytest.raises(RingBroken, match="holds 0 tokens"):
        run(shard, Row(1, 1, 1, 1, rollback=True))


@pytest.mark.parametrize("number", [1, 3])
def test_steps_are_consecutive(number: int) -> None:
    """A doubled and a lost step are noticed with the next one."""
    shard = logic()
    run(shard)
    with pytest.raises(RingBroken, match="step 2 was due"):
        run(shard, number=number)


def test_after_an_error_everything_is_refused_until_a_larger_epoch() -> None:
    """A broken epoch stays broken with its first reason; Configure starts afresh and empties all slots."""
    shard = logic()
    run(shard, Row(1, 0, 4, 1))
    with pytest.raises(RingBroken, match="not here"):
        run(shard, ops=(Drop(9),))
    with pytest.raises(RingBroken, match="not here"):
        run(shard)
    assert shard.configure(Epoch(4, "a"), 0, 1) == (Truncate(0, 0), Truncate(1, 0))
    assert (shard.sequences, shard.cached_tokens, shard.broken) == (0, 0, None)
    run(shard, Row(1, 0, 1, 1))


@pytest.mark.parametrize("epoch", [Epoch(3, "node"), Epoch(2, "z"), Epoch(3, "a")])
def test_only_a_larger_epoch_is_accepted(epoch: Epoch) -> None:
    """Epochs are ordered by (counter, coordinator); the same or an older one is refused with status 409."""
    with pytest.raises(RingBroken) as caught:
        logic().configure(epoch, 0, 1)
    assert (caught.value.code, caught.value.status) == ("stale_epoch", 409)


def test_a_step_of_another_epoch_is_refused() -> None:
    """Fencing: a step of another epoch never touches the cache."""
    with pytest.raises(RingBroken, match="epoch 2/node"):
        logic().plan(Step(Epoch(2, "node"), 1))


def test_sequence_ids_are_never_used_twice() -> None:
    """A dropped id, or one lower than a known one, cannot come back."""
    shard = logic()
    run(shard, Row(5, 0, 1, 1))
    with pytest.raises(RingBroken, match="used before"):
        run(shard, Row(5, 0, 1, 1), ops=(Drop(5),))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Row(1, 0, 9, 1), "1 to 8 tokens"),
        (Row(1, 0, 0, 0), "1 to 8 tokens"),
        (Row(1, 0, 2, 3), "3 outputs"),
        (Row(1, 0, 1, 1, last_stage=1), "stages 0 to 1 of 1"),
    ],
)
def test_rows_that_cannot_be(row: Row, reason: str) -> None:
    """Lengths over the chunk, more outputs than tokens and stages that do not exist are refused."""
    with pytest.raises(RingBroken, match=reason):
        run(logic(), row)


def test_a_sequence_never_outgrows_the_context() -> None:
    """The pool is fixed: a row past its end is refused."""
    shard = logic()
    run(shard, Row(1, 0, 8, 1))
    run(shard, Row(1, 8, 8, 1))
    with pytest.raises(RingBroken, match="context is 16"):
        run(shard, Row(1, 16, 1, 1))


def test_a_full_pool_refuses_a_new_sequence() -> None:
    """The head is the only allocator: one sequence too many is its error."""
    shard = logic()
    run(shard, Row(1, 0, 1, 1), Row(2, 0, 1, 1))
    with pytest.raises(RingBroken, match="no free KV slot"):
        run(shard, Row(3, 0, 1, 1))


def test_copies_reach_as_far_as_rollbacks() -> None:
    """What a sequence could not be cut to cannot be copied from it."""
    shard = logic(depth=1)
    run(shard, Row(1, 0, 4, 1))
    assert run(shard, ops=(Copy(2, 1, 3),)).calls == (CopySlot(1, 0, 3),)
    run(shard, ops=(Drop(2),))
    with pytest.raises(RingBroken, match="keeps 1 to roll back"):
        run(shard, ops=(Copy(3, 1, 2),))


def test_a_row_for_other_stages_is_passed_on() -> None:
    """A stage outside [first_stage, last_stage] neither computes nor caches the row."""
    shard = logic(stage=1, n_stages=3)
    plan = run(shard, Row(1, 0, 4, 1, first_stage=2, last_stage=2), Row(2, 0, 4, 1, last_stage=2))
    assert (plan.slots, plan.n_computed, shard.cached_tokens) == ((-1, 0), 1, 4)


def test_what_is_renamed_is_cut_and_the_old_id_is_no_more() -> None:
    """A sequence goes over to another request under a new id, with what the two have in common and nothing else."""
    shard = logic()
    run(shard, Row(1, 0, 6, 1))
    assert run(shard, Row(2, 4, 1, 1), ops=(Rename(2, 1, 4),)).calls == (Truncate(0, 4),)
    assert (shard.sequences, shard.cached_tokens) == (1, 5)
    assert run(shard, ops=(Rename(3, 2, 5),)).calls == ()
    for op in (Drop(1), Rename(4, 2, 1), Rename(3, 3, 5), Rename(4, 3, 6), Copy(4, 2, 1)):
        with pytest.raises(RingBroken, match=r"not here|used before|it holds 5"):
            run(copy.deepcopy(shard), ops=(op,))


def test_a_fence_ends_the_epoch_and_tells_what_is_held() -> None:
    """By ascending id; steps of either epoch are refused, and only a larger fence or the Configure goes on."""
    shard = logic()
    run(shard, Row(1, 0, 2, 1), Row(2, 0, 6, 1))
    run(shard, Row(2, 3, 1, 1, rollback=True))
    assert shard.fence(Epoch(4, "a")) == (Kept(1, 2, 2), Kept(2, 4, 6))
    assert shard.highest == 2
    for epoch in (EPOCH, Epoch(4, "a")):
        with pytest.raises(RingBroken):
            shard.plan(Step(epoch, 3))
        with pytest.raises(RingBroken, match="not newer"):
            shard.fence(epoch)
    assert shard.fence(Epoch(5, "a")) == (Kept(1, 2, 2), Kept(2, 4, 6))
    with pytest.raises(RingBroken, match="not newer"):
        shard.configure(Epoch(4, "b"), 0, 1)
    shard.configure(Epoch(5, "a"), 0, 1)
    with pytest.raises(RingBroken, match="not newer"):
        shard.configure(Epoch(5, "a"), 0, 1)


def test_what_is_kept_is_cut_and_all_else_is_forgotten() -> None:
    """The pool holds what is kept and nothing else; sequences go on where they were cut; used ids stay used."""
    shard = logic()
    run(shard, Row(3, 0, 6, 1), Row(4, 0, 5, 1))
    shard.fence(Epoch(4, "a"))
    assert shard.configure(Epoch(4, "a"), 0, 1, (Kept(3, 5, 6),)) == (Truncate(1, 0), Truncate(0, 5))
    shard.ran()
    assert (shard.sequences, shard.cached_tokens) == (1, 5)
    assert run(shard, Row(3, 5, 1, 1), Row(5, 0, 1, 1)).slots == (0, 1)
    with pytest.raises(RingBroken, match="used before"):
        run(shard, Row(4, 0, 1, 1), ops=(Drop(3),))


def test_stages_before_what_is_kept_know_its_ids_and_hold_nothing() -> None:
    """Their rows may come in any order, each once, and a drop of one that never came has nothing to do."""
    shard = logic(n_stages=3)
    run(shard, Row(7, 0, 6, 1))
    shard.fence(Epoch(4, "a"))
    kept = (Kept(5, 2, 2), Kept(6, 3, 3), Kept(7, 6, 6))
    assert shard.configure(Epoch(4, "a"), 0, 3, kept, 1) == (Truncate(0, 0), Truncate(1, 0))
    shard.ran()
    assert (shard.sequences, shard.highest) == (0, 7)
    assert run(shard, Row(7, 0, 1, 0), ops=(Drop(5),)).calls == ()
    assert run(shard, Row(6, 0, 1, 0), ops=(Drop(7),)).calls == (Truncate(0, 0),)
    for sequence in (5, 7):
        with pytest.raises(RingBroken, match="used before"):
            run(copy.deepcopy(shard), Row(sequence, 0, 1, 0))
    assert run(shard, Row(8, 0, 1, 0)).slots == (1,)


@pytest.mark.parametrize(
    ("kept", "depth"), [(Kept(1, 7, 7), None), (Kept(2, 1, 1), None), (Kept(1, 0, 6), None), (Kept(1, 3, 6), 2)]
)
def test_a_stage_that_cannot_keep_what_it_should_says_so(kept: Kept, depth: int | None) -> None:
    """More than it holds, what it does not hold, a cut deeper than it can: refused, and a larger fence finds it all."""
    shard = logic(depth=depth)
    run(shard, Row(1, 0, 6, 1))
    held = shard.fence(Epoch(4, "a"))
    with pytest.raises(RingBroken) as caught:
        shard.configure(Epoch(4, "a"), 0, 1, (kept,))
    assert (caught.value.code, caught.value.status) == ("cannot_keep", 409)
    assert shard.fence(Epoch(5, "a")) == held


def test_nothing_is_kept_without_a_fence_of_that_epoch_nor_after_a_step_that_broke_off() -> None:
    """What a stage holds is only sure when nothing can come between, and when the engine has done what was planned."""
    shard = logic()
    run(shard, Row(1, 0, 6, 1))
    with pytest.raises(RingBroken, match="not fenced"):
        copy.deepcopy(shard).configure(Epoch(4, "a"), 0, 1, (Kept(1, 6, 6),))
    shard.plan(Step(EPOCH, 2, (), (Row(1, 6, 1, 1),)))  # and the engine fails
    assert shard.fence(Epoch(4, "a")) == ()
    with pytest.raises(RingBroken, match="can give of 0"):
        shard.configure(Epoch(4, "a"), 0, 1, (Kept(1, 6, 6),))
    assert len(shard.configure(Epoch(4, "a"), 0, 1)) == 2
