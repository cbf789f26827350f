"""spare.py and what the head does with it: finished requests' KV goes first, then nothing new is taken."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from exo_node.errors import NoCapacity
from exo_node.ring import spare
from exo_node.ring.events import Event
from exo_node.ring.head_data import Memory
from exo_node.ring.messages import Drop
from exo_node.ring.sequences import Failed, TokenChoice
from tests.unit.ring.lone_head import SETUP, home, job, send, started

LONG = tuple(range(20))


async def test_the_engine_thread_hears_of_it_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look while memory is low, and once when it no longer is; without a floor there is nothing to look at."""
    frees = [(0, 300), (0, 150), (0, 150), (0, 300), (0, 300)]
    monkeypatch.setattr(spare, "host_memory", lambda: frees.pop(0) if len(frees) > 1 else frees[0])
    monkeypatch.setattr(spare, "LOOK_S", 0.0)
    told: list[Event] = []
    task = asyncio.create_task(spare.watch_memory(100, told.append))
    while len(told) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0)
    task.cancel()
    assert [one.level for one in told if isinstance(one, Memory)] == ["low", "low", "ok"]
    await spare.watch_memory(0, told.append)


def test_finished_sequences_go_while_memory_is_low() -> None:
    """Those that are there at once, those that finish meanwhile too; afterwards they are kept again."""
    head = started(replace(SETUP, prefix_cache=True, max_chunk=32))

    def answer(ticket: int, number: int) -> None:
        assert head.submit(ticket, job(LONG, request_id=str(ticket), max_tokens=1), 0.0) == []
        send(head)
        assert home(head, number) == [ticket]
        head.token(ticket, TokenChoice(7), 0.0)

    answer(1, 2)
    assert head.residents.account.sequences == 1
    assert head.next_step(0.0) is None
    head.spare(Memory("low"))
    assert [type(op) for op in send(head).step.ops] == [Drop]
    home(head, 3)
    assert head.residents.account.sequences == 0
    answer(2, 4)
    assert head.residents.account.sequences == 0
    send(head)
    home(head, 5)
    head.spare(Memory("ok"))
    answer(3, 6)
    assert head.residents.account.sequences == 1


def test_nothing_new_is_taken_while_memory_runs_out() -> None:
    """What runs goes on, and so does an answer that was begun elsewhere."""
    head = started()
    head.submit(1, job(request_id="a"), 0.0)
    head.spare(Memory("critical", "3 MiB of memory are free"))
    (refused,) = head.submit(2, job(request_id="b"), 0.0)
    assert isinstance(refused, Failed)
    assert isinstance(refused.error, NoCapacity)
    assert (refused.error.code, refused.error.retry_after) == ("low_memory", 5.0)
    assert "3 MiB of memory are free" in refused.error.message
    assert head.submit(3, job(request_id="c", generated=(5,)), 0.0) == []
    send(head)
    assert home(head, 2) == [1]
