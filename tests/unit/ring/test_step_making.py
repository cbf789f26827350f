"""What is sent when: rows that decode, slices of prompts, drafts, and how much of it at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from exo_node.ring.drafting import Drafter
from exo_node.ring.head import Head
from exo_node.ring.head_data import RingSetup
from exo_node.ring.messages import Report
from exo_node.ring.sequences import Pooling, TokenChoice
from exo_node.ring.step_times import RingTimes
from tests.unit.ring.lone_head import SETUP, decode_all, home, job, send, spans, started


def test_chunks_end_at_absolute_multiples_where_bits_must_not_change() -> None:
    """Reproducible: a prompt is cut at multiples of max_chunk, and only its last chunk asks for an output."""
    head = started(replace(SETUP, reproducible=True))
    head.submit(1, job(tuple(range(10))), 0.0)
    seen = []
    for number in (2, 3, 4):
        seen += spans(send(head))
        home(head, number)
    assert seen == [(1, 0, 4, 0), (1, 4, 4, 0), (1, 8, 2, 1)]


def test_what_was_generated_before_is_replayed_token_by_token_where_bits_must_not_change() -> None:
    """Reproducible: a resumed generation's rows are shaped as they were when it was first computed."""
    head = started(replace(SETUP, reproducible=True))
    head.submit(1, job((1, 2, 3, 4, 5), generated=(6, 7)), 0.0)
    seen = []
    for number in (2, 3, 4, 5):
        seen += spans(send(head))
        home(head, number)
    assert seen == [(1, 0, 4, 0), (1, 4, 1, 0), (1, 5, 1, 0), (1, 6, 1, 1)]


def test_a_beginning_that_comes_twice_at_once_is_computed_once() -> None:
    """Nothing of the second prompt was sent when the first one's beginning is there: it is copied then."""
    head = started(replace(SETUP, max_chunk=16, prefix_cache=True))
    for ticket in (1, 2):
        head.submit(ticket, job((*range(36), 90 + ticket), request_id=str(ticket)), 0.0)
    rows: list[tuple[int, int, int]] = []
    cached: dict[int, int] = {}
    number = 2
    while len(cached) < 2:
        outgoing = send(head)
        rows += [(row.sequence, row.position, row.length) for row in outgoing.step.rows if row.position < 37]
        for ticket in home(head, number):
            delta, _ = head.token(ticket, TokenChoice(7), 0.0)
            cached.setdefault(ticket, delta.cached)
        number += 1
    assert rows == [(1, 0, 16), (1, 16, 16), (1, 32, 5), (2, 32, 5)]
    assert cached == {1: 0, 2: 32}
    assert head.residents.counts.found == 32


def test_a_step_holds_the_ready_decode_rows_and_slices_of_prompts() -> None:
    """Decoding goes on while prompts come in, several in one step where there is room."""
    head = started()
    head.submit(1, job(request_id="a"), 0.0)
    head.submit(2, job(tuple(range(6)), request_id="b"), 0.0)
    assert spans(send(head)) == [(1, 0, 3, 1), (2, 0, 1, 0)]
    assert home(head, 2) == [1]
    head.token(1, TokenChoice(7), 0.0)
    outgoing = send(head)
    assert spans(outgoing) == [(1, 3, 1, 1), (2, 1, 3, 0)]
    assert outgoing.tokens == ([7], [1, 2, 3])


def test_chunks_of_one_sequence_follow_each_other_and_decode_rows_do_not() -> None:
    """On a longer ring prefill fills the pipeline; a decoding sequence has at most one row in flight."""
    head = started(replace(SETUP, n_stages=3))
    head.submit(1, job(tuple(range(8))), 0.0)
    assert spans(send(head)) == [(1, 0, 4, 0)]
    assert spans(send(head)) == [(1, 4, 4, 1)]
    assert head.next_step(0.0) is None
    home(head, 2)
    assert home(head, 3) == [1]
    head.token(1, TokenChoice(5), 0.0)
    assert spans(send(head)) == [(1, 8, 1, 1)]
    assert head.next_step(0.0) is None


def test_decoding_sequences_are_shared_out_over_the_stages() -> None:
    """With several stages the sequences go in several micro-batches, so that every stage has work."""
    head = started(replace(SETUP, n_stages=2, slots=4, max_waiting=9))
    for ticket in range(1, 5):
        head.submit(ticket, job(request_id=str(ticket)), 0.0)
    decode_all(head, 4)
    assert [len(send(head).step.rows), len(send(head).step.rows), head.next_step(0.0)] == [2, 2, None]


@pytest.mark.parametrize(
    ("fields", "outputs"), [({"pooling": Pooling("mean"), "max_tokens": 0}, 8), ({"max_tokens": 1}, 1)]
)
def test_prompts_that_are_only_read_keep_no_others_small(fields: dict[str, Any], outputs: int) -> None:
    """They never decode, and those of which one token is drawn do not either: while some are on their way, the next go
    in whole chunks, and every stage has one."""
    head = started(replace(SETUP, n_stages=2, slots=4, max_chunk=8))
    for tokens in (1, 8):
        head.times.add(tokens, [Report(stage, 0, 1000 * tokens, 0, 0, 0) for stage in range(2)], 0.002 * tokens, 0.0)
    for ticket in (1, 2, 3):
        head.submit(ticket, job((ticket,) * 8, request_id=str(ticket), **fields), 0.0)
    assert [spans(send(head)) for _ in range(3)] == [[(sequence, 0, 8, outputs)] for sequence in (1, 2, 3)]


def test_the_budget_bounds_what_is_in_flight() -> None:
    """No more steps than stages plus one; and no more bytes than the budget, but always one step."""
    head = started(replace(SETUP, n_stages=2))
    head.submit(1, job(tuple(range(40))), 0.0)
    assert len([send(head) for _ in range(3)]) == 3
    assert head.next_step(0.0) is None
    wide = started(replace(SETUP, n_stages=2, vector_bytes=2**26))
    wide.submit(1, job(tuple(range(40))), 0.0)
    send(wide)
    assert wide.next_step(0.0) is None


def test_one_that_gave_its_place_up_is_not_ready_before_it_has_its_prompt_again() -> None:
    """It found no memory for its newest token, and an older one then took its own: what it is sent once it is back is
    its prompt alone, though its place comes before the older ones' answers are home."""
    head = started(replace(SETUP, n_stages=2, slots=4, kv_tokens=64, block=4, max_chunk=64))
    for tokens in (1, 64):  # a step takes as long whatever is in it: one micro-batch is best
        head.times.add(tokens, [Report(stage, 0, 1000, 0, 0, 0) for stage in range(2)], 0.002, 0.0)
    for ticket in (1, 2, 3):
        head.submit(ticket, job((ticket,) * 16, request_id=str(ticket)), 0.0)
    assert len(send(head).step.rows) == 3
    head.submit(4, job((4,) * 12, request_id="4", max_tokens=1), 0.0)
    assert spans(send(head)) == [(4, 0, 12, 1)]
    assert home(head, 2) == [1, 2, 3]
    for ticket in (1, 3, 2):
        head.token(ticket, TokenChoice(7), 0.0)
    assert spans(send(head)) == [(1, 16, 1, 1), (2, 16, 1, 1)]
    assert head.counts.preempted == 1
    assert home(head, 3) == [4]
    head.token(4, TokenChoice(7), 0.0)
    assert spans(send(head)) == [(5, 0, 17, 1)]
    for ticket in home(head, 4):
        head.token(ticket, TokenChoice(8), 0.0)
    assert spans(send(head)) == [(1, 17, 1, 1), (2, 17, 1, 1)]


class Guess(Drafter):
    """Always guesses as many tokens as there is room for; counts how often it was asked."""

    asked = 0

    def propose(self, room: int, rows: int, times: RingTimes) -> list[int]:
        self.asked += 1
        return [7] * room


def guessing(setup: RingSetup) -> tuple[Head, list[Guess]]:
    """A head whose first step is home, and the drafters that it makes."""
    made: list[Guess] = []

    def make(tokens: list[int]) -> Guess:
        made.append(Guess(tokens))
        return made[-1]

    head = Head(replace(setup, speculation=True), make)
    send(head)
    home(head, 1)
    return head, made


@pytest.mark.parametrize(("depth", "guessed"), [(None, 7), (2, 2), (0, 0)])
def test_no_more_is_guessed_than_can_be_rolled_back(depth: int | None, guessed: int) -> None:
    """A shard that keeps few past tokens would refuse to cut off all of a longer draft when it is wrong."""
    head, _ = guessing(replace(SETUP, max_chunk=8, rollback_depth=depth))
    head.submit(1, job((1, 2, 3), max_tokens=20), 0.0)
    decode_all(head, 1)
    assert [row.length for row in send(head).step.rows] == [1 + guessed]


def test_nothing_is_guessed_for_a_step_that_cannot_be_sent() -> None:
    """What is in flight is the most already: the guesses of a draft model would be made in vain, and counted."""
    head, drafters = guessing(replace(SETUP, n_stages=2, vector_bytes=2**25 + 1))
    for ticket in (1, 2):
        head.submit(ticket, job((ticket,), request_id=str(ticket)), 0.0)
    decode_all(head, 2)
    drafted = send(head).step.rows[0].length - 1
    assert head.next_step(0.0) is None
    assert ([one.asked for one in drafters], head.counts.drafted) == ([1, 0], drafted)
    home(head, head.steps)
    assert [row.sequence for row in send(head).step.rows] == [2]
