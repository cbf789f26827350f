"""Who is in the shards, and who leaves."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.ring.messages import Copy, Drop, Kept, Rename
from exo_node.ring.orphans import ORPHAN_S
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
    """The next turn takes over what the last one left, under an id of its own: no copy, only new tokens to compute."""
    pool = residents()
    pool.release(come(pool, 1, TEXT[:40]))
    turn = asked(2, TEXT[:60])
    assert pool.admit(turn, 0, 0)
    assert (turn.sequence, turn.sent, pool.take_ops()) == (2, 40, (Rename(2, 1, 40),))
    assert (pool.account.sequences, pool.account.cached_tokens) == (1, 40)


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
    assert (branch.sequence, branch.sent, crowded.take_ops()) == (2, 30, (Rename(2, 1, 30),))


@pytest.mark.parametrize("rules", [{"slots": 3}, {"slots": 8, "kv_tokens": 144}], ids=["slots", "memory"])
def test_a_branch_costs_what_was_unused_for_longest(rules: dict[str, int]) -> None:
    """Where all slots or all memory are taken by what has finished, the oldest of that goes, not the other branch of
    a chat that went on a moment ago."""
    pool = residents(**rules)
    for ticket, begin in ((1, 300), (2, 200)):
        pool.release(come(pool, ticket, tuple(range(begin, begin + 40))))
    pool.release(come(pool, 3, TEXT[:64]))
    assert not pool.has_ops
    branch = asked(4, (*TEXT[:30], 1, 2, 3))
    assert pool.admit(branch, 0, 0)
    assert (branch.sent, pool.take_ops()) == (30, (Drop(1), Copy(4, 3, 30)))
    turn = asked(5, (*TEXT[:64], 7))
    assert pool.admit(turn, 0, 0)
    assert turn.sent == 64


def test_a_branch_of_what_was_unused_for_longest_takes_it() -> None:
    """Nothing that was of use since is given up for it."""
    pool = residents(slots=2)
    pool.release(come(pool, 1, TEXT[:64]))
    pool.release(come(pool, 2, tuple(range(200, 240))))
    branch = asked(3, (*TEXT[:30], 1, 2, 3))
    assert pool.admit(branch, 0, 0)
    assert (branch.sent, pool.take_ops()) == (30, (Rename(3, 1, 30),))


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


def orphaned(*kept: Kept, kept_from: int = 1, **rules: Any) -> Residents:
    """After a loss, with these sequences in the stages from `kept_from` on."""
    return residents(kept=kept, kept_from=kept_from, next_sequence=kept[-1].sequence + 1, **rules)


def back(ticket: int, sequence: int, prompt: tuple[int, ...], *generated: int) -> Generation:
    """A request that comes back, with the tokens that it knows."""
    job = Job(request_id=str(ticket), prompt=prompt, generated=generated, max_tokens=80, sequence=sequence)
    return Generation.start(ticket, job, 0.0)


def test_a_request_that_comes_back_finds_what_some_stages_have_kept() -> None:
    """The others compute it again: until then they hold less, and only what all hold may others share."""
    pool = orphaned(Kept(4, 33, 40), Kept(7, 5, 5))
    assert (pool.account.sequences, pool.account.cached_tokens, pool.pool(0)) == (2, 38, (0, 0))
    mine = back(1, 4, TEXT[:30], 1, 2)
    assert pool.admit(mine, 0, 0)
    assert (mine.sequence, mine.kept, mine.sent, pool.has_ops) == (4, 31, 0, False)
    pool.sent(mine, 20)
    assert (pool.account.cached_tokens, pool.pool(0)) == (38, (1, 20))
    pool.expire(0.0)
    pool.expire(ORPHAN_S)
    assert (pool.take_ops(), pool.pool(0)) == ((Drop(7),), (1, 20))
    other = asked(2, TEXT[:28])
    assert pool.admit(other, 0, 0)
    assert (other.sent, pool.take_ops(), pool.pool(0)) == (20, (Copy(8, 4, 20),), (2, 40))
    pool.sent(mine, 31)
    pool.sent(mine, 32)
    assert (pool.account.cached_tokens, pool.pool(0)) == (52, (2, 52))


@pytest.mark.parametrize(
    ("length", "known", "rules", "right"),
    [
        (33, 5, {}, 33),
        (40, 5, {}, 34),  # 35 are known: the newest may be another's guess
        (40, 5, {"rollback_depth": 5}, 0),  # it has held 40
        (40, 5, {"rollback_depth": 6}, 34),
        (34, 5, {"rollback_depth": 0}, 34),
        (33, 5, {"reproducible": True, "max_chunk": 8}, 33),  # token by token behind the prompt
        (29, 5, {"reproducible": True, "max_chunk": 8}, 24),
        (30, 0, {"reproducible": True, "max_chunk": 8}, 24),
        (7, 5, {"reproducible": True, "max_chunk": 8}, 0),
    ],
)
def test_so_much_of_an_orphan_is_right(length: int, known: int, rules: dict[str, Any], right: int) -> None:
    """All but the newest known token, as far as it is held and can be cut; in whole chunks where bits must not change.
    Where nothing is of use it is given up, and all is computed again."""
    pool = orphaned(Kept(4, length, 40), **rules)
    mine = back(1, 4, TEXT[:30], *range(known))
    assert pool.admit(mine, 0, 0)
    assert mine.kept == right
    assert pool.take_ops() == (() if right else (Drop(4),))
    assert mine.sequence == (4 if right else RESERVED)


def test_where_nothing_is_lost_nothing_is_computed_again() -> None:
    """Every stage has kept it: only the newest token goes in, and others may share the rest at once."""
    pool = orphaned(Kept(4, 33, 33), kept_from=0)
    mine = back(1, 4, TEXT[:30], 1, 2, 3, 4, 5)
    assert pool.admit(mine, 0, 0)
    assert (mine.sent, mine.kept) == (33, 33)
    pool.sent(mine, 35)
    assert pool.account.cached_tokens == 35
    pool.release(mine)
    other = asked(2, (*TEXT[:30], 1, 2))
    assert pool.admit(other, 0, 0)
    assert other.sent == 31


def test_orphans_leave_when_their_room_is_wanted() -> None:
    """The oldest first, one whose request waits last; who comes too late computes all again."""
    pool = orphaned(Kept(4, 33, 33), Kept(5, 20, 20), slots=2)
    pool.orphans.claim(4)
    come(pool, 1, TEXT[40:60])
    assert pool.take_ops() == (Drop(5),)
    mine, late = back(2, 4, TEXT[:32], 1), back(3, 5, TEXT[40:58], 1)
    assert pool.admit(mine, 0, 0)
    assert not pool.admit(late, 0, 0)
    pool.release(mine)
    assert pool.take_ops() == (Drop(4),)  # half computed, it is of no use to others
    assert pool.pool(0) == (1, 20)
    assert pool.admit(late, 0, 0)
    assert late.kept == 0


def test_a_smaller_ring_keeps_less() -> None:
    """No more sequences, nor longer ones, than the new ring has room for."""
    pool = orphaned(Kept(1, 97, 97), Kept(2, 20, 20), Kept(3, 20, 20), Kept(4, 20, 20))
    assert pool.take_ops() == (Drop(1), Drop(2))
    assert (pool.account.free_slots, pool.pool(0)) == (0, (0, 0))
