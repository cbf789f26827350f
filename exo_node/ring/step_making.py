"""What goes into the next step: rows of those that decode, slices of prompts, drafts, as the budgets allow. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from exo_node.ring.flight import Flight, Flown
from exo_node.ring.head_data import Counts, Outgoing, RingSetup
from exo_node.ring.messages import Row, Step
from exo_node.ring.residents import Residents
from exo_node.ring.scheduler import Budget, chunk_length, decode_share, micro_batches, slice_budget
from exo_node.ring.sequences import Generation
from exo_node.ring.slots import Slots
from exo_node.ring.step_times import RingTimes

REPLAN = 16  # steps after which the number of micro-batches is looked at again


class StepMaker:
    """Makes the steps of one epoch. Only the plan of micro-batches is its own; the head owns all it works on."""

    def __init__(
        self, setup: RingSetup, slots: Slots, residents: Residents, flight: Flight, times: RingTimes, counts: Counts
    ) -> None:
        self.micro_batches = 1  # into how many the decoding sequences are cut
        self._setup = setup
        self._slots = slots
        self._residents = residents
        self._flight = flight
        self._times = times
        self._counts = counts
        self._budget = Budget.of(setup.n_stages)
        depth = setup.rollback_depth  # wrong drafts are cut off again
        self._deepest = setup.max_chunk - 1 if depth is None else min(depth, setup.max_chunk - 1)
        self._planned_for = (0, 0)  # decoding sequences and steps home when micro-batches were last counted

    def make(self, now: float) -> Outgoing | None:
        """The next micro-batch, entered as sent; None when there is nothing to do or the budget in flight is spent."""
        flight, residents, slots = self._flight, self._residents, self._slots
        if len(flight) >= self._budget.max_steps:
            return None
        residents.begin_step()
        slots.admit(now, flight.newest)
        self._plan()
        decoding = self._pick_decoding()
        slices = self._pick_slices(decoding)
        # Making room for one may have cost another its place that was picked before.
        decoding = [one for one in decoding if one.sequence]
        slices = [(one, length) for one, length in slices if one.sequence]
        # The first step of an epoch may be empty: it opens every hop and shows that the ring is closed.
        if not decoding and not slices and not residents.has_ops and flight.newest:
            return None
        n_tokens = len(decoding) + sum(length for _, length in slices)
        if flight.steps and flight.n_bytes + n_tokens * self._setup.vector_bytes > self._budget.max_bytes:
            slots.ready.extendleft(reversed(decoding))
            return None
        # Guesses are made for a step that goes for certain, so their few vectors may come on top of the budget.
        for generation in decoding:
            self._draft(generation, len(decoding))
            n_tokens += len(generation.drafts)
        ops = residents.take_ops()
        rows = [(self._decode_row(one), one) for one in decoding]
        rows += [(self._prefill_row(one, length), one) for one, length in slices]
        step = Step(self._setup.epoch, flight.newest + 1, ops, tuple(row for row, _ in rows))
        tokens = tuple(_ids(row, one) for row, one in rows)
        flown = tuple((row, one.ticket) for row, one in rows)
        n_bytes = n_tokens * self._setup.vector_bytes
        n_stages = self._setup.n_stages
        pools = tuple(residents.pool(stage) for stage in range(n_stages))
        if any(row.last_stage - row.first_stage < n_stages - 1 for row, _ in flown):
            n_tokens = 0  # its times tell nothing of a usual step
        flight.send(Flown(flown, pools, n_bytes, n_tokens, bool(decoding), now))
        return Outgoing(step, tokens)

    def _plan(self) -> None:
        """How many micro-batches the decoding sequences make, from the times that the ring has shown."""
        n_decoding = self._slots.n_decoding
        now = (n_decoding, self._flight.home // REPLAN)
        if now != self._planned_for:
            self._planned_for = now
            self.micro_batches = micro_batches(n_decoding, self._times)
            self._budget = Budget.of(self._setup.n_stages, self.micro_batches)

    def _pick_decoding(self) -> list[Generation]:
        """An even share of those that decode, as far as they are ready and there is memory for them."""
        slots, step = self._slots, self._flight.newest
        picked: list[Generation] = []
        if self._flight.decode_steps >= self.micro_batches:
            return picked  # the others go with the next that comes home, in one step
        share = decode_share(slots.n_decoding, self.micro_batches)
        starved: list[Generation] = []
        while slots.ready and len(picked) < share:
            generation = slots.ready.popleft()
            if slots.running.get(generation.ticket) is not generation or not generation.decoding:
                continue  # it has ended, or given its place up
            if slots.make_room(generation, len(generation.tokens), step):
                picked.append(generation)
            elif slots.running.get(generation.ticket) is generation:
                starved.append(generation)
        # One of them may have given its place up to another since: it is not ready any more.
        slots.ready.extendleft(reversed([one for one in starved if one.sequence]))
        return picked

    def _pick_slices(self, decoding: Sequence[Generation]) -> list[tuple[Generation, int]]:
        """What goes with them of prompts: (generation, tokens)."""
        slots, flight = self._slots, self._flight
        coming = list(slots.prefilling)
        if not coming:
            return []
        chunk = self._setup.max_chunk
        budget = chunk
        if self._setup.reproducible:
            # What was generated goes token by token, of all that come back together; of prompts one chunk.
            prompts = [one for one in coming if one.sent < len(one.job.prompt)]
            coming = [one for one in coming if one not in prompts[1:]]
            budget += len(coming)
        else:
            if slots.n_decoding and not decoding and len(flight) >= self._setup.n_stages:
                return []  # every stage has work; more would only stand in the way of the rows that decode
            busy = len(decoding) or (1 if slots.n_decoding else 0)
            # The oldest first; every other time the shortest, which would wait long behind a long one.
            if flight.home % 2:
                coming.sort(key=lambda one: one.prefill - one.sent)
            budget = max(1, slice_budget(busy, chunk - len(decoding), self._times))
        picked: list[tuple[Generation, int]] = []
        for generation in coming:
            if not budget:
                break
            if not generation.sequence:
                continue  # it has just given its place up
            slots.look_again(generation)
            if self._setup.reproducible:
                length = _fixed_chunk(generation, chunk)
            else:
                # Rows of what some stages have kept end where that does.
                end = generation.kept if generation.sent < generation.kept else generation.prefill
                length = min(end - generation.sent, budget)
            budget -= length
            if slots.make_room(generation, generation.sent + length, flight.newest):
                picked.append((generation, length))
        return picked

    def _draft(self, generation: Generation, rows: int) -> None:
        """Guess what comes after the newest token, where that pays and there is room."""
        generation.drafts = ()
        if generation.drafter is None:
            return
        tokens = len(generation.tokens)
        room = min(generation.job.max_tokens - generation.n_generated, self._setup.context - tokens) - 1
        draft = generation.drafter.propose(min(room, self._deepest), rows, self._times)
        if draft and self._residents.grow(generation, tokens + len(draft)):
            generation.drafts = tuple(draft)
            self._counts.drafted += len(draft)
        elif draft:
            generation.drafter.settle(None)

    def _decode_row(self, generation: Generation) -> Row:
        drafted = len(generation.drafts)
        position, generation.sent = generation.sent, len(generation.tokens)
        return self._row(generation, position, 1 + drafted, 1 + drafted)

    def _prefill_row(self, generation: Generation, length: int) -> Row:
        position = generation.sent
        generation.sent += length
        n_outputs = 1 if generation.sent == len(generation.tokens) else 0
        if generation.reads_at(position, length):
            n_outputs = length
        if generation.decoding:
            self._slots.prefilled(generation, self._flight.newest)
        return self._row(generation, position, length, n_outputs)

    def _row(self, generation: Generation, position: int, length: int, n_outputs: int) -> Row:
        first, last = 0, self._setup.n_stages - 1
        held = self._residents.account.length(generation.sequence) if generation.sequence > 0 else 0
        if position < generation.kept:
            first, last = generation.lost_from, self._setup.kept_from - 1
            held = position
        generation.in_flight += 1
        self._residents.sent(generation, position + length)
        return Row(generation.sequence, position, length, n_outputs, position < held, first, last)


def _ids(row: Row, generation: Generation) -> Sequence[int]:
    known = generation.tokens[row.position : row.position + row.length]
    return [*known, *generation.drafts] if len(known) < row.length else known


def _fixed_chunk(generation: Generation, max_chunk: int) -> int:
    """The next chunk where bits must come out the same: what was generated before goes as it was, token by token."""
    prompt = len(generation.job.prompt)
    if generation.sent >= prompt:
        return 1
    return chunk_length(generation.sent, min(prompt, generation.prefill), max_chunk)
