"""The head's decisions: who runs, what callers are told, and the account of every pool. (What is sent: step_making.)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from exo_node.errors import ContextLengthExceeded, DeadlineExceeded, ExoError, InvalidRequest, Overloaded, RingBroken
from exo_node.ring.backlog import UNKNOWN_S
from exo_node.ring.head import Head
from exo_node.ring.messages import Drop, Report
from exo_node.ring.sequences import Delta, Failed, Notice, Pooling, Reading, TokenChoice, Want
from tests.unit.ring.lone_head import SETUP, decode_all, home, job, send, spans, started, wants


def error_of(notices: list[Notice]) -> ExoError:
    (notice,) = notices
    assert isinstance(notice, Failed)
    return notice.error


def test_the_first_step_is_empty_and_opens_the_ring() -> None:
    """A new epoch sends one step without rows; then nothing until there is work."""
    head = Head(SETUP)
    assert send(head).step.rows == ()
    assert home(head, 1) == []
    assert head.next_step(0.0) is None


def test_a_scored_prompt_asks_for_every_output_and_goes_on() -> None:
    """Every token's distribution is read; that of the last one is drawn from too."""
    head = started()
    head.submit(1, job(tuple(range(6)), prompt_logprobs=1), 0.0)
    assert spans(send(head)) == [(1, 0, 4, 4)]
    assert wants(head, 2) == [Reading(1, 0, 4, 0)]
    assert head.read(Reading(1, 0, 4, 0), (TokenChoice(1, -1.0),), b"").finish is None
    assert spans(send(head)) == [(1, 4, 2, 2)]
    assert wants(head, 3) == [Reading(1, 0, 2, 4), Want(1, 1, 6)]
    assert head.read(Reading(1, 0, 2, 4), (), b"").finish is None
    head.token(1, TokenChoice(9), 0.0)
    assert spans(send(head)) == [(1, 6, 1, 1)]
    assert wants(head, 4) == [Want(1, 0, 7)]


def test_a_prompt_that_is_only_read_ends_with_its_last_chunk() -> None:
    """Scored without an answer, or made a vector: the slot is given back; of a pooling by the last, one output."""
    head = started()
    head.submit(1, job(tuple(range(6)), prompt_logprobs=0, max_tokens=0, request_id="a"), 0.0)
    seen = []
    for number in range(2, 6):
        if number == 4:
            head.submit(2, job(tuple(range(6)), pooling=Pooling("last"), max_tokens=0, request_id="b"), 0.0)
        seen += spans(send(head))
        for reading in wants(head, number):
            assert isinstance(reading, Reading)
            told = head.read(reading, (), b"")
            assert told.finish == {3: "length", 5: "stop"}.get(number)
    assert seen == [(1, 0, 4, 4), (1, 4, 2, 2), (2, 0, 4, 0), (2, 4, 2, 1)]
    assert [type(op) for op in send(head).step.ops] == [Drop]
    assert head.running == 0


def test_a_prompt_that_is_read_gives_its_memory_up_too_and_is_told_once() -> None:
    """Two that read their prompts would wait for each other's memory for ever; what was told is not told again."""
    head = started(replace(SETUP, context=16, kv_tokens=16, block=4, max_chunk=16))
    head.submit(1, job(tuple(range(3)), prompt_logprobs=0, request_id="a", max_tokens=13), 0.0)
    head.submit(2, job(tuple(range(5)), prompt_logprobs=0, request_id="b", max_tokens=11), 0.0)
    told: dict[int, list[int]] = {1: [], 2: []}
    drawn = {1: 0, 2: 0}
    for number in range(2, 60):
        if head.next_step(0.0) is None:
            break
        for want in wants(head, number):
            if isinstance(want, Reading):
                told[want.ticket] += range(want.position, want.position + want.count)
                head.read(want, (), b"")
            else:
                drawn[want.ticket] += 1
                head.token(want.ticket, TokenChoice(9), 0.0)
    assert head.counts.preempted
    assert drawn == {1: 13, 2: 11}
    assert {ticket: [one for one in at if one < 3 + 2 * (ticket - 1)] for ticket, at in told.items()} == {
        1: [0, 1, 2],
        2: [0, 1, 2, 3, 4],
    }


def test_requests_wait_for_a_slot_in_order_of_arrival() -> None:
    """A third request starts only when a slot is free, and a full queue (of three beyond the two slots) says when to
    come back."""
    head = started()
    for ticket in range(1, 6):
        assert head.submit(ticket, job(request_id=str(ticket), max_tokens=1), 0.0) == []
    assert (head.waiting, head.running) == (5, 0)
    error = error_of(head.submit(9, job(request_id="9"), 0.0))
    assert isinstance(error, Overloaded)
    assert error.retry_after == UNKNOWN_S
    order = []
    for number in range(2, 12):
        outgoing = head.next_step(0.0)
        if outgoing is None:
            break
        order += [row.sequence for row in outgoing.step.rows if not row.position]
        for ticket in home(head, number):
            head.token(ticket, TokenChoice(7), 0.0)
    assert order == [1, 2, 3, 4, 5]


def test_an_urgent_request_goes_before_a_long_one_that_finds_no_memory() -> None:
    """It is not the urgent one's fault that a prompt of low priority has to wait for half of the memory."""
    head = started(replace(SETUP, slots=4, kv_tokens=64, block=4, max_chunk=64))
    head.submit(1, job(tuple(range(30)), request_id="a", client="a", max_tokens=30), 0.0)
    send(head)
    home(head, 2)
    head.token(1, TokenChoice(7), 0.0)
    head.submit(2, job(tuple(range(50)), request_id="b", client="b", priority="low"), 0.0)
    head.submit(3, job(tuple(range(5)), request_id="c", client="c"), 0.0)
    assert [row.length for row in send(head).step.rows] == [1, 5]
    assert head.waiting == 1


def test_who_gave_its_place_up_is_sure_to_come_further_the_next_time() -> None:
    """A prompt that takes longer than a quantum ends beside urgent ones without end, who could take its place again
    and again before it is through."""
    head = started(replace(SETUP, slots=8, kv_tokens=80, block=4, max_chunk=2, max_waiting=9))
    head.submit(1, job(tuple(range(48)), request_id="low", client="low", priority="low", max_tokens=4), 0.0)
    ended: set[int] = set()
    for number in range(2, 4000):
        if head.waiting + head.running < 7:
            head.submit(number, job(request_id=str(number), client="high", priority="high", max_tokens=20), 0.0)
        send(head)
        for ticket in home(head, number):
            delta, _ = head.token(ticket, TokenChoice(7), 0.0)
            ended |= {ticket} if delta.finish else set()
        if 1 in ended:
            break
    assert 1 in ended
    assert head.counts.preempted


def test_nobody_gives_a_place_up_in_vain() -> None:
    """Where an urgent prompt finds no memory even without those that could make room for it, they stay."""
    head = started(replace(SETUP, slots=4, kv_tokens=96, block=4, max_chunk=64))
    head.submit(1, job(tuple(range(40)), request_id="a", client="a", max_tokens=24), 0.0)
    head.submit(2, job(tuple(range(4)), request_id="b", client="b", priority="low", max_tokens=40), 0.0)
    head.submit(3, job(tuple(range(50)), request_id="c", client="c"), 0.0)
    held = set()
    while head.waiting:
        number = head.steps + 1
        held |= {row.sequence for row in send(head).step.rows}
        for ticket in home(head, number):
            head.token(ticket, TokenChoice(7), 0.0)
    assert number > 20, "the first has ended"
    assert (head.counts.preempted, held) == (0, {1, 2, 3})


def test_a_cancel_drops_the_sequence_with_the_next_step() -> None:
    """Cancelled rows in flight come home unheeded; one step without rows carries the drop when nothing else goes."""
    head = started()
    head.submit(1, job(), 0.0)
    send(head)
    head.cancel(1)
    assert home(head, 2) == []
    outgoing = send(head)
    assert (outgoing.step.ops, outgoing.step.rows) == ((Drop(1),), ())
    assert (head.running, head.waiting) == (0, 0)
    home(head, 3)
    assert head.next_step(0.0) is None


@pytest.mark.parametrize(
    ("fields", "token", "finish"),
    [
        ({"max_tokens": 1}, 7, "length"),
        ({"stop_ids": frozenset({7})}, 7, "stop"),
        ({"prompt": tuple(range(63))}, 7, "length"),
        ({"max_tokens": 2, "generated": (9,)}, 7, "length"),
        ({"max_tokens": 2}, 7, None),
    ],
)
def test_why_a_generation_ends(fields: dict[str, Any], token: int, finish: str | None) -> None:
    """max_tokens (resumed tokens counted), a stop id (itself delivered), or the end of the context."""
    head = started()
    head.submit(1, job(**fields), 0.0)
    delta = None
    for number in range(2, 30):
        send(head)
        if home(head, number):
            delta, _ = head.token(1, TokenChoice(token), 0.0)
            break
    assert delta is not None
    assert (delta.finish, delta.index) == (finish, len(fields.get("generated", ())))


@pytest.mark.parametrize(
    ("fields", "finish"),
    [({"generated": (4, 9), "stop_ids": frozenset({9})}, "stop"), ({"generated": (4,) * 8}, "length")],
)
def test_a_resumed_generation_may_be_complete(fields: dict[str, Any], finish: str) -> None:
    """Nothing is generated past a stop id or max_tokens; the caller learns the reason."""
    head = started()
    (delta,) = head.submit(1, job(**fields), 0.0)
    assert isinstance(delta, Delta)
    assert (delta.choice, delta.finish, delta.index) == (None, finish, len(fields["generated"]))


def test_the_newest_attempt_of_a_request_wins() -> None:
    """A newer attempt ends the older one; an older or equal one is refused."""
    head = started()
    head.submit(1, job(attempt=1), 0.0)
    assert error_of(head.submit(2, job(attempt=1), 0.0)).code == "stale_attempt"
    error = error_of(head.submit(3, job(attempt=2), 0.0))
    assert (error.code, head.waiting) == ("replaced", 1)


def test_a_prompt_over_the_context_is_refused_with_both_numbers() -> None:
    """The message names the prompt's length and the context."""
    error = error_of(started().submit(1, job(tuple(range(64))), 0.0))
    assert isinstance(error, ContextLengthExceeded)
    assert "64" in error.message


def test_time_runs_out_waiting_and_running() -> None:
    """A deadline ends a generation wherever it is; others go on."""
    head = started()
    head.submit(1, job(request_id="a", deadline=5.0), 0.0)
    head.submit(2, job(request_id="b"), 0.0)
    send(head)
    assert head.expire(4.9) == []
    assert isinstance(error_of(head.expire(5.0)), DeadlineExceeded)
    assert (head.running + head.waiting, head.next_deadline) == (1, float("inf"))


@pytest.mark.parametrize(("sequences", "cached", "stages"), [(2, 3, 1), (1, 4, 1), (1, 3, 2)])
def test_reports_are_assertions(sequences: int, cached: int, stages: int) -> None:
    """A stage that reports another pool than the head's account, or is missing, breaks the ring."""
    head = started()
    head.submit(1, job(), 0.0)
    send(head)
    with pytest.raises(RingBroken):
        head.home(2, [Report(stage, 0, 0, 0, sequences, cached) for stage in range(stages)], 0.0)


def test_steps_come_home_in_order() -> None:
    """A step that comes home twice or early breaks the ring."""
    head = started()
    with pytest.raises(RingBroken, match="step 2 was due"):
        head.home(1, [Report(0, 0, 0, 0, 0, 0)], 0.0)


def test_a_failure_ends_every_generation_and_refuses_new_ones() -> None:
    """Nobody waits for a ring that is broken."""
    head = started()
    head.submit(1, job(request_id="a"), 0.0)
    head.submit(2, job(request_id="b"), 0.0)
    send(head)
    broken = RingBroken("stage 2 is gone")
    assert [notice.error for notice in head.fail(broken) if isinstance(notice, Failed)] == [broken, broken]
    assert error_of(head.submit(3, job(), 0.0)) is broken
    assert head.next_step(0.0) is None
    assert head.fail(RingBroken("again")) == []


def test_first_delta_tells_the_times() -> None:
    """Queue and prefill time come with the first token."""
    head = started()
    head.submit(1, job(), 1.0)
    head.next_step(1.5)
    home(head, 2)
    delta, _ = head.token(1, TokenChoice(7), 2.0)
    assert (delta.queue_us, delta.prefill_us) == (500_000, 500_000)


def test_a_token_id_outside_the_vocabulary_is_refused() -> None:
    """An engine would read past its embedding."""
    assert isinstance(error_of(started().submit(1, job((100,)), 0.0)), InvalidRequest)


def test_the_output_of_a_cancelled_row_keeps_its_place() -> None:
    """What came home for a caller that has gone is skipped; the others still get their own distribution."""
    head = started(replace(SETUP, n_stages=2, slots=4))
    for ticket in (1, 2, 3):
        head.submit(ticket, job(request_id=str(ticket)), 0.0)
    decode_all(head, 3)
    assert len(send(head).step.rows) == 2
    head.cancel(1)
    assert [(want.ticket, want.output) for want in wants(head, head.steps)] == [(2, 1)]
