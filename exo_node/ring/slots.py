"""Who holds a slot and who waits for one: admission, memory for those that run, and who gives a place up. Pure."""

from __future__ import annotations

import math
from collections import deque

from exo_node.ring.head_data import Counts, RingSetup
from exo_node.ring.residents import Residents
from exo_node.ring.sequences import RANKS, Generation
from exo_node.ring.waiting import PROMPT_SHARE, WaitingQueue

QUANTUM = 16  # steps that a generation is sure of before one of a higher priority may take its place


class Slots:
    """The generations of one epoch. `step`, where asked for, is the number of the newest step: a clock."""

    def __init__(self, setup: RingSetup, residents: Residents, counts: Counts) -> None:
        self.waiting = WaitingQueue()
        self.running: dict[int, Generation] = {}  # by ticket: all that hold a slot
        self.prefilling: list[Generation] = []  # in order of admission
        self.ready: deque[Generation] = deque()  # their newest token is known and not sent
        self.n_decoding = 0  # running and past their prefill, with more than one token to come then
        self._context = setup.context
        self._residents = residents
        self._counts = counts
        self._admitted = 0
        self._full = False  # some found no place when places were last given

    @property
    def free(self) -> int:
        """Slots for those who have come since places were last given; 0 where others had found none."""
        return 0 if self._full else self._residents.rules.slots - len(self.running)

    def find(self, ticket: int) -> Generation | None:
        running = self.running.get(ticket)
        return running or next((one for one in self.waiting if one.ticket == ticket), None)

    def remove(self, generation: Generation) -> None:
        """It is over, or waits no longer."""
        if generation.ticket in self.running:
            self._leave(generation)
        else:
            self.waiting.remove(generation)

    def clear(self) -> None:
        """The epoch is over; its residents go with it."""
        for one in self.running.values():
            if one.drafter is not None:
                one.drafter.rest()
        self.waiting.clear()
        self.running.clear()
        self.ready.clear()
        self.prefilling.clear()
        self.n_decoding = 0

    def admit(self, now: float, step: int) -> None:
        """Slots to those whose turn it is, while there is room for their prompts."""
        while (
            generation := next((one for one in self.waiting.turns() if self._make_place(one, step)), None)
        ) is not None:
            self.waiting.start(generation)
            self._admitted += 1
            generation.order, generation.since = self._admitted, step
            if generation.admitted is None:
                generation.admitted = now
                generation.cached = 0 if generation.kept else generation.sent  # what it has kept itself was no hit
            generation.replayed += generation.prefill - generation.sent
            self.running[generation.ticket] = generation
            self.prefilling.append(generation)
            self.waiting.charge(generation, (generation.prefill - generation.sent) * PROMPT_SHARE)
        self._full = len(self.waiting) > 0

    def look_again(self, generation: Generation) -> None:
        """Nothing of its prompt was sent yet: others may have sent the beginning meanwhile."""
        found = self._residents.look_again(generation)
        if found:
            self.waiting.charge(generation, -found * PROMPT_SHARE)
            generation.replayed -= found
            if not generation.back:
                generation.cached = found

    def make_room(self, generation: Generation, length: int, step: int) -> bool:
        """Memory for the sequence to hold `length`: finished ones go first, then those that were admitted last."""
        while not self._residents.grow(generation, length):
            if not self._preempt(generation, step, same_rank=True):
                return False
        return True

    def prefilled(self, generation: Generation, step: int) -> None:
        """All of its prompt is sent: it decodes, if that is not all."""
        self.prefilling.remove(generation)
        self.n_decoding += generation.goes_on
        generation.since = step

    def _make_place(self, generation: Generation, step: int) -> bool:
        if self._has_place(generation):
            return True
        # Those that can wait keep no place from those that should not, but give none up in vain.
        while self._could_have_place(generation) and self._preempt(generation, step, same_rank=False):
            if self._has_place(generation):
                return True
        return False

    def _could_have_place(self, generation: Generation) -> bool:
        """Whether there would be memory without all that are less urgent."""
        rank, account = RANKS[generation.job.priority], self._residents.account
        less = [one for one in self.running.values() if RANKS[one.job.priority] > rank]
        others = [one for one in self.prefilling if RANKS[one.job.priority] <= rank]
        promised = sum(account.growth(one.sequence, one.prefill) for one in others)
        return account.charge(generation.prefill) + promised <= self._residents.room_without(less)

    def _has_place(self, generation: Generation) -> bool:
        account = self._residents.account
        promised = sum(account.growth(one.sequence, one.prefill) for one in self.prefilling)
        at_most = sum(account.growth(one.sequence, one.longest(self._context)) for one in self.running.values())
        reserve = min(account.charge(1), max(0, at_most - promised))
        return self._residents.admit(generation, promised, reserve)

    def _preempt(self, generation: Generation, step: int, *, same_rank: bool) -> bool:
        """Send the least important running generation back to its queue, to be computed again later. False where there
        is none of a lower priority than `generation`, which has had its quantum; or, for the memory that a running one
        cannot do without (`same_rank`), none that is less important."""
        mine = _importance(generation, step) if same_rank else (True, RANKS[generation.job.priority], math.inf)
        others = [
            one
            for one in self.running.values()
            if one is not generation
            and not one.in_flight
            and (same_rank or step - one.since >= QUANTUM)
            and _importance(one, step) > mine
        ]
        victim = max(others, key=lambda one: _importance(one, step), default=None)
        if victim is None:
            return False
        self.waiting.add(victim, first=True)  # before it leaves: what its caller was served is not forgotten
        self._leave(victim)
        if victim in self.ready:
            self.ready.remove(victim)
        victim.prefill, victim.sent, victim.drafts, victim.back = len(victim.tokens), 0, (), True
        self._counts.preempted += 1
        return True

    def _leave(self, generation: Generation) -> None:
        """It gives its slot up."""
        del self.running[generation.ticket]
        if generation in self.prefilling:
            self.prefilling.remove(generation)
        else:
            self.n_decoding -= generation.goes_on
        self.waiting.stop(generation)
        self._residents.release(generation)
        if generation.drafter is not None:
            generation.drafter.rest()


def _importance(generation: Generation, step: int) -> tuple[bool, int, float]:
    """The smaller, the longer it keeps its place: by priority, then by age. One that is back is sure of its prompt
    and of a quantum: else others might take its place again and again before it has come any further."""
    sure = generation.back and (not generation.decoding or step - generation.since < QUANTUM)
    return (not sure, RANKS[generation.job.priority], generation.order)
