"""A head by itself, whose steps come home by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from exo_node.ring.head import Head
from exo_node.ring.head_data import Outgoing, RingSetup
from exo_node.ring.messages import Epoch, Report
from exo_node.ring.sequences import Job, Reading, TokenChoice, Want

SETUP = RingSetup(
    epoch=Epoch(1, "c"), n_stages=1, slots=2, context=64, max_chunk=4, vocab_size=100, vector_bytes=16, max_waiting=3
)


def job(prompt: tuple[int, ...] = (1, 2, 3), **fields: Any) -> Job:
    return replace(Job(request_id="r", prompt=prompt, max_tokens=8), **fields)


def started(setup: RingSetup = SETUP) -> Head:
    """A head whose first, empty step is home."""
    head = Head(setup)
    send(head)
    home(head, 1)
    return head


def send(head: Head) -> Outgoing:
    outgoing = head.next_step(0.0)
    assert outgoing is not None
    return outgoing


def wants(head: Head, number: int) -> list[Want | Reading]:
    """What the outputs of the step are for, which comes home with honest reports."""
    entry = head._flight.steps[0]
    reports = [Report(stage, 0, 0, 0, *pool) for stage, pool in enumerate(entry.pools)]
    return head.home(number, reports, 0.0)


def home(head: Head, number: int) -> list[int]:
    """The step comes home; returns the tickets that want a token."""
    return [want.ticket for want in wants(head, number)]


def decode_all(head: Head, count: int) -> None:
    """Every prompt goes in, and every ticket gets its first token once all are there."""
    wanting: list[int] = []
    number = head.steps + 1
    while len(wanting) < count:
        send(head)
        wanting += home(head, number)
        number += 1
    for ticket in wanting:
        head.token(ticket, TokenChoice(7), 0.0)


def spans(outgoing: Outgoing) -> list[tuple[int, int, int, int]]:
    return [(row.sequence, row.position, row.length, row.n_outputs) for row in outgoing.step.rows]
