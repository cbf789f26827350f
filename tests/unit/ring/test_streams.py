"""Queues of the event loop; the outbound stream itself is tested with real runners."""

from __future__ import annotations

import asyncio

from exo_node.ring.messages import Epoch
from exo_node.ring.sequences import Delta, TokenChoice
from exo_node.ring.streams import Mailbox


async def test_a_mailbox_never_makes_the_writer_wait() -> None:
    """Any number of notices go in without a reader; one take gets them all, in order."""
    mailbox = Mailbox(Epoch(1, "a"))
    notices = [Delta(1, index, TokenChoice(index), None) for index in range(1000)]
    for notice in notices:
        mailbox.put(notice)
    assert await mailbox.take() == notices


async def test_a_reader_waits_for_the_next_notice() -> None:
    """An empty mailbox waits, and wakes with the next notice."""
    mailbox = Mailbox(Epoch(1, "a"))
    waiting = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    mailbox.put(Delta(1, 0, TokenChoice(3), None))
    assert await waiting == [Delta(1, 0, TokenChoice(3), None)]
