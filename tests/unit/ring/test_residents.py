"""Who is in the shards, and who leaves."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.ring.messages import Copy, Drop
from exo_node.ring.residents import RESERVED, PoolRules, Residents
from exo_node.ring.sequences import Generation, Job, Pooling

TEXT = tuple(range(100, 180))


def residents(**rules: Any) -> Residents:
    return Residents(
        PoolRules(**{"slots": 2, "context": 96, "max_chunk": 32, "block": 8, "prefix_cache": True} | rules)
    )


def come(pool: Residents, ticket: int, prompt: tuple[int, ...], **fields: Any) -> Generation:
    """A generation that is admitted and whose prompt is sent."""
    generation = Generation.start(ticket, Job(request_id=str(ticket), prompt=prompt, max_tokens=8, **fields), 0.0)
    assert pool.admit(generation, 0, 0)
    generation.sent = generation.prefill
    pool.sent(generation, generation.prefill)
    return generation


def asked(ticket: int, prompt: tuple[int, ...], **fields: Any) -> Generation:
    return Generation.start(ticket, Job(request_id=str(ticket), prompt=prompt, max_tokens=8, **fields), 0.0)


def test_a_chat_goes_on_in_its_own_sequence() -> None:
    """The next turn takes over what the last one left: no copy, no drop, only the new tokens to compute."""
    pool = residents()
    pool.release(come(pool, 1, TEXT[:40]))
    turn = asked(2, TEXT[:60])
    assert pool.admit(turn, 0, 0)
    assert (turn.sequence, turn.sent, pool.take_ops()) == (1, 40, ())


def test_a_branch_is_copied_while_there_is_room_and_taken_where_there_is_none() -> None:
    """Two continuations of one beginning may both stay."""
    pool = residents(slots=2)
    pool.release(come(pool, 1, TEXT[:64]))
    branch = asked(2, (*TEXT[:30], 1, 2, 3))
    assert pool.admit(branch, 0, 0)
    assert (branch.sent, pool.take_ops()) == (30, (Copy(2, 1, 30),))
    crowded = residents(slots=1)
    crowded.release(come(crowded, 1, TEXT[:64]))
    branch = asked(2, (*TEXT[:30], 1, 2, 3))
    assert crowded.admit(branch, 0, 0)
    assert (branch.sequence, branch.sent, crowded.take_ops()) == (1, 30, ())


def test_a_running_sequence_is_copied_from() -> None:
    """A common system prompt is computed once however many come at once."""
    pool = residents()
    come(pool, 1, TEXT[:40])
    other = asked(2, (*TEXT[:40], 5))
    assert pool.admit(other, 0, 0)
    assert (other.sent, pool.take_ops()) == (40, (Copy(2, 1, 40),))


def test_the_oldest_finished_leaves_for_a_new_one() -> None:
    """Slots and memory are given back when they are wanted, not before."""
    pool = residents()
    pool.release(come(pool, 1, TEXT[:20]))
    pool.release(come(pool, 2, TEXT[20:60]))
    assert not pool.has_ops
    come(pool, 3, TEXT[60:80])
    assert pool.take_ops() == (Drop(1),)
    assert pool.counts.evicted == 1


def test_memory_is_not_given_twice_in_one_step() -> None:
    """Room that was found for one row is not there for the next, until the step is begun anew."""
    pool = residents(kv_tokens=96, context=48)
    one, other = come(pool, 1, TEXT[:40]), come(pool, 2, TEXT[40:80])
    pool.begin_step()
    assert pool.grow(one, 41)
    assert pool.grow(other, 41)
    assert pool.account.free_tokens == 16
    small = residents(kv_tokens=88, context=48)
    one, other = come(small, 1, TEXT[:40]), come(small, 2, TEXT[40:80])
    assert small.grow(one, 41)
    assert not small.grow(other, 41)
    small.begin_step()
    assert small.grow(other, 41)


def test_a_prompt_without_room_waits() -> None:
    """Memory that others were promised is not there; finished sequences' memory is."""
    pool = residents(kv_tokens=96)
    first = come(pool, 1, TEXT[:40])
    assert not pool.admit(asked(2, TEXT[10:70]), 0, 0)
    assert not pool.admit(asked(2, TEXT[10:50]), 24, 0)
    pool.release(first)
    late = asked(2, TEXT[10:70])
    assert pool.admit(late, 0, 0)
    assert late.sequence == RESERVED
    pool.release(late)
    assert pool.account.free_slots == 1


def test_what_was_only_read_is_not_kept() -> None:
    """Embedded texts seldom come twice."""
    pool = residents()
    pool.release(come(pool, 1, TEXT[:40], pooling=Pooling("mean")))
    assert pool.take_ops() == (Drop(1),)


@pytest.mark.parametrize(("whole", "shared", "found"), ((0, 36, 36), (0, 35, 0), (39, 20, 0), (40, 20, 20)))
def test_what_shards_have_forgotten_is_computed_again(whole: int, shared: int, found: int) -> None:
    """Neither a copy nor a takeover reaches further back than a rollback, from the most that a sequence has held; one
    that is short enough to be whole is shared as ever."""
    for slots in (1, 2):
        pool = residents(slots=slots, rollback_depth=4, whole_tokens=whole)
        pool.release(come(pool, 1, TEXT[:40]))
        other = asked(2, (*TEXT[:shared], 1))
        assert pool.admit(other, 0, 0)
        assert other.sent == found
    running = residents(rollback_depth=4, whole_tokens=whole)
    come(running, 1, TEXT[:40])
    other = asked(2, (*TEXT[:shared], 1))
    assert running.admit(other, 0, 0)
    assert other.sent == found


def test_takeovers_one_after_the_other_reach_no_further_than_one() -> None:
    """What the shards keep counts from the most that the sequence has held, whoever had it."""
    pool = residents(slots=1, rollback_depth=4)
    pool.release(come(pool, 1, TEXT[:40]))
    for length, found in ((36, 36), (34, 0)):
        other = asked(2, (*TEXT[:length], 1))
        assert pool.admit(other, 0, 0)
        assert other.sent == found
        if found:
            pool.sent(other, length + 1)
            other.sent = length + 1
            pool.release(other)


def test_where_the_longest_match_is_of_no_use_a_shorter_one_is() -> None:
    """Shards that cannot roll back: the longer sequence cannot be had in part, the shorter one can as a whole."""
    pool = residents(slots=4, rollback_depth=0)
    first = come(pool, 1, TEXT[:33])
    pool.release(come(pool, 2, (*TEXT[:33], *range(30))))
    pool.release(first)
    other = asked(3, (*TEXT[:33], *range(20), 99))
    assert pool.admit(other, 0, 0)
    assert other.sent == 33


def test_where_bits_must_not_change_the_match_with_most_whole_chunks_is_used() -> None:
    """It need not be the longest."""
    pool = residents(reproducible=True, slots=4, context=128, max_chunk=16)
    first = come(pool, 1, TEXT[:20])
    first.tokens += TEXT[20:60]
    first.sent = 60
    pool.sent(first, 60)
    pool.release(first)
    pool.release(come(pool, 2, TEXT[:50]))
    other = asked(3, TEXT)
    assert pool.admit(other, 0, 0)
    assert other.sent == 48


def test_where_bits_must_not_change_only_whole_chunks_are_used_again() -> None:
    """Reproducible: what was generated, and a chunk that was cut short, would be computed otherwise."""
    pool = residents(reproducible=True)
    first = come(pool, 1, TEXT[:70])
    first.tokens += [5, 6, 7]
    pool.release(first)
    turn = asked(2, (*TEXT[:70], 5, 6, 7, 8))
    assert pool.admit(turn, 0, 0)
    assert turn.sent == 64
