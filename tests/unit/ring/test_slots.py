"""Who gets a slot, who gives it up, and when. (test_head.py and test_head_load.py go on from here.)"""

from __future__ import annotations

from exo_node.ring.head_data import Counts, RingSetup
from exo_node.ring.messages import Epoch
from exo_node.ring.residents import Residents
from exo_node.ring.sequences import Generation, Job, Priority
from exo_node.ring.slots import QUANTUM, Slots

SETUP = RingSetup(
    epoch=Epoch(1, "c"), n_stages=1, slots=1, context=64, max_chunk=4, vocab_size=100, vector_bytes=16, max_waiting=3
)


def waits(slots: Slots, ticket: int, priority: Priority) -> Generation:
    generation = Generation.start(
        ticket, Job(request_id=str(ticket), prompt=(1, 2, 3), max_tokens=8, priority=priority), 0.0
    )
    slots.waiting.add(generation)
    return generation


def test_a_more_urgent_one_takes_a_place_after_a_quantum() -> None:
    """Not a step sooner; who gave its place up waits again, is counted, and has all its tokens to compute."""
    counts = Counts()
    slots = Slots(SETUP, Residents(SETUP), counts)
    low = waits(slots, 1, "low")
    slots.admit(0.0, 1)
    high = waits(slots, 2, "high")
    slots.admit(0.0, QUANTUM)
    assert (list(slots.running.values()), counts.preempted) == ([low], 0)
    slots.admit(0.0, 1 + QUANTUM)
    assert (list(slots.running.values()), slots.prefilling, list(slots.waiting)) == ([high], [high], [low])
    assert (counts.preempted, low.back, low.sent) == (1, True, 0)


def test_who_leaves_makes_place() -> None:
    """The slot of one that is over goes to the next; one that only waited just goes."""
    slots = Slots(SETUP, Residents(SETUP), Counts())
    first, second, third = (waits(slots, ticket, "normal") for ticket in (1, 2, 3))
    slots.admit(0.0, 1)
    slots.remove(first)
    slots.remove(second)
    slots.admit(0.0, 2)
    assert (slots.find(3), slots.find(2), list(slots.running)) == (third, None, [3])
