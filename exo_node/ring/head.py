"""The head's mind (ARCHITECTURE 3.5 to 3.8) as pure logic: requests, cancels, returned steps in; steps, notices out.

No I/O, no engine, no clock: `now` (seconds, monotonic) is an argument. The caller runs each step that `next_step` hands
out through its own stage and on round the ring, calls `home` when it is back, draws a token for every `Want`, tells it
by `token`, and at last what the step took by `measured`. Returned steps go before new ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from exo_node.errors import DeadlineExceeded, ExoError, InvalidRequest, RingBroken
from exo_node.ring.admission import check_job, check_memory, finished_already
from exo_node.ring.backlog import Backlog, check_room
from exo_node.ring.drafting import Drafter, Drafting
from exo_node.ring.flight import Flight
from exo_node.ring.head_data import Counts, Memory, Outgoing, RingSetup
from exo_node.ring.messages import Report, Row
from exo_node.ring.progress import Awaited
from exo_node.ring.residents import Residents
from exo_node.ring.sequences import Delta, Failed, Generation, Job, Notice, Reading, TokenChoice, Want
from exo_node.ring.slots import Slots
from exo_node.ring.step_making import StepMaker
from exo_node.ring.step_times import RingTimes
from exo_node.types import FinishReason


class Head:
    """The scheduler of one epoch of one instance."""

    def __init__(self, setup: RingSetup, make_drafter: Callable[[list[int]], Drafting] = Drafter) -> None:
        """`make_drafter` is given a generation's tokens, which grow."""
        self.setup = setup
        self._make_drafter = make_drafter
        self.broken: ExoError | None = None
        self.counts = Counts()
        self.next_deadline = -math.inf if setup.kept else math.inf  # when `expire` is due next
        self.times = RingTimes(setup.n_stages)
        self.residents = Residents(setup)
        self._backlog = Backlog(setup)
        self._flight = Flight(setup.n_stages)
        self._slots = Slots(setup, self.residents, self.counts)
        self._maker = StepMaker(setup, self._slots, self.residents, self._flight, self.times, self.counts)
        self._by_request: dict[str, Generation] = {}
        self._memory = Memory()

    # ---- events -------------------------------------------------------------------------------------------------

    def submit(self, ticket: int, job: Job, now: float) -> list[Notice]:
        """A new generation. It waits for its turn (waiting.py); a bad or surplus one fails at once.

        The newest attempt of a request wins: an older one that still runs is ended here.
        """
        if self.broken is not None:
            return [Failed(ticket, self.broken)]
        try:
            check_job(job, self.setup.context, self.setup.vocab_size)
            check_memory(job, self._memory)
            notices = self._replace(job)
            waiting, running, free = self._slots.waiting, self._slots.running.values(), self._slots.free
            check_room(job, self.setup.max_waiting, waiting, running, self._backlog, self.times.trip, now, free)
        except ExoError as error:
            return [Failed(ticket, error)]
        reason = finished_already(job, self.setup.context)
        if reason is not None:
            return [*notices, Delta(ticket, len(job.generated), None, reason)]
        generation = Generation.start(ticket, job, now)
        if self.setup.speculation and not self.setup.reproducible and job.draws:
            generation.drafter = self._make_drafter(generation.tokens)
        if job.deadline is not None:
            self.next_deadline = min(job.deadline, self.next_deadline)
        self._slots.waiting.add(generation)
        self._by_request[job.request_id] = generation
        self.residents.orphans.claim(job.sequence)
        return notices

    def spare(self, memory: Memory) -> None:
        """How much memory there is: while it is low nothing of finished requests is kept, and when it runs out nothing
        new is taken; what runs goes on."""
        self._memory = memory
        self.residents.spare(memory.level != "ok")

    def cancel(self, ticket: int) -> None:
        """The caller has gone: no more rows."""
        generation = self._slots.find(ticket)
        if generation is not None:
            self._remove(generation)

    def expire(self, now: float) -> list[Notice]:
        """End the generations whose time has run out, and what waits for some that do not come back."""
        if now < self.next_deadline:
            return []
        self.residents.expire(now)
        late = [
            one for one in (*self._slots.waiting, *self._slots.running.values()) if (one.job.deadline or now + 1) <= now
        ]
        for generation in late:
            self._remove(generation)
        left = (one.job.deadline for one in (*self._slots.waiting, *self._slots.running.values()))
        due = (deadline for deadline in left if deadline is not None)
        self.next_deadline = min(due, default=math.inf)
        self.next_deadline = min(self.next_deadline, self.residents.orphans.until)
        return [Failed(one.ticket, _too_late(one)) for one in late]

    def home(self, number: int, reports: Sequence[Report], now: float) -> list[Want | Reading]:
        """Step `number` has come round. Checks every stage's report against the head's own account.

        Raises `RingBroken` where they differ: the caller then calls `fail`.
        """
        flown = self._flight.land(number, reports)
        wants: list[Want | Reading] = []
        output = 0
        for row, ticket in flown.rows:
            generation = self._slots.running.get(ticket)
            if generation is not None:
                generation.in_flight -= 1
                wants += _wants(generation, row, output)
            output += row.n_outputs
        return wants

    def measured(self, reports: Sequence[Report], trip: float, finish: float) -> None:
        """The step that came home last was `trip` seconds under way, and its outputs took the head `finish` more."""
        if self._flight.home_tokens and self._flight.home > 1:  # an epoch's first step also opens its streams
            self.times.add(self._flight.home_tokens, reports, trip, finish)

    def read(self, reading: Reading, choices: tuple[TokenChoice, ...], vector: bytes) -> Delta:
        """What was read off the prompt by a `Reading` of the step that has just come home."""
        generation = self._slots.running[reading.ticket]
        finish: FinishReason | None = None
        if generation.job.prompt_logprobs is not None:
            generation.read = reading.position + reading.count
        if not generation.job.draws and reading.position + reading.count == generation.prefill:
            finish = "length" if generation.job.pooling is None else "stop"
            self._remove(generation)
        return Delta(reading.ticket, generation.n_generated, None, finish, prompt=choices, vector=vector)

    def token(self, ticket: int, choice: TokenChoice, now: float) -> tuple[Delta, bool]:
        """The next token drawn for a `Want` of the step that has just come home; and whether it was the draft's, so
        that the output behind it foretells the one after."""
        generation = self._slots.running[ticket]
        index = generation.n_generated
        generation.tokens.append(choice.token)
        generation.n_generated += 1
        self.counts.tokens += 1
        self._slots.waiting.charge(generation, 1.0)
        right = bool(generation.drafts) and generation.drafts[0] == choice.token
        if right:
            generation.drafts = generation.drafts[1:]
            generation.sent += 1
            self.counts.accepted += 1
        finish = generation.finish_after(choice, self.setup.context)
        moved = 0 if generation.sequence == generation.told else generation.sequence
        generation.told = generation.sequence
        if finish is not None:
            self._backlog.ended(generation, now, self.running)
            self._remove(generation)
        elif not right:
            if generation.drafter is not None:
                generation.drafter.settle(len(generation.drafts))
            generation.drafts = ()
            self._slots.ready.append(generation)
        more = right and finish is None
        if not generation.first:
            return Delta(ticket, index, choice, finish, sequence=moved), more
        generation.first = False
        self._backlog.first_token(generation, now)
        admitted = generation.admitted or now
        queue_us, prefill_us = round((admitted - generation.arrived) * 1e6), round((now - admitted) * 1e6)
        replayed = max(0, generation.replayed - 1) if generation.job.resumes else 0  # the newest is computed anyhow
        delta = Delta(
            ticket,
            index,
            choice,
            finish,
            queue_us,
            prefill_us,
            cached=generation.cached,
            replayed=replayed,
            sequence=moved,
        )
        return delta, more

    def refuse(self, ticket: int, error: ExoError) -> Failed:
        """End one generation with `error` (nothing can be drawn for it); the ring goes on."""
        generation = self._slots.running[ticket]
        generation.sent = 0  # nothing of it is kept: what the shards hold may be what is wrong
        self._remove(generation)
        return Failed(ticket, error)

    def fail(self, error: ExoError) -> list[Notice]:
        """The epoch is over: every generation fails with `error`, and so does every new one until a Configure."""
        if self.broken is not None:
            return []
        self.broken = error
        notices: list[Notice] = [
            Failed(one.ticket, error) for one in (*self._slots.running.values(), *self._slots.waiting)
        ]
        self._slots.clear()
        self._by_request.clear()
        self._flight.clear()
        return notices

    # ---- decisions ----------------------------------------------------------------------------------------------

    def next_step(self, now: float) -> Outgoing | None:
        """The next micro-batch, or None when there is nothing to do or the budget in flight is spent."""
        return None if self.broken is not None else self._maker.make(now)

    def awaited(self) -> Awaited | None:
        """The oldest step in flight. A watch on another thread may ask; what it is told fits while this one is idle."""
        flying = self._flight.steps.copy()
        return Awaited(self._flight.home + 1, self.times.known_trip(flying[0].n_tokens)) if flying else None

    @property
    def steps(self) -> int:
        """Number of the newest step."""
        return self._flight.newest

    @property
    def waiting(self) -> int:
        return len(self._slots.waiting)

    @property
    def micro_batches(self) -> int:
        """Into how many the decoding sequences are cut."""
        return self._maker.micro_batches

    @property
    def running(self) -> int:
        return len(self._slots.running)

    def runs(self, ticket: int) -> bool:
        """Whether the generation holds a slot."""
        return ticket in self._slots.running

    # ---- inside -------------------------------------------------------------------------------------------------

    def _replace(self, job: Job) -> list[Notice]:
        old = self._by_request.get(job.request_id)
        if old is None:
            return []
        if job.attempt <= old.job.attempt:
            raise InvalidRequest(
                f"request {job.request_id} runs as attempt {old.job.attempt}; attempt {job.attempt} is not newer",
                code="stale_attempt",
                status=409,
            )
        self._remove(old)
        error = RingBroken(f"attempt {job.attempt} of this request has taken over", code="replaced")
        return [Failed(old.ticket, error)]

    def _remove(self, generation: Generation) -> None:
        if self._by_request.get(generation.job.request_id) is generation:
            del self._by_request[generation.job.request_id]
        self._slots.remove(generation)


def _wants(generation: Generation, row: Row, output: int) -> list[Want | Reading]:
    """What the outputs of a row, from `output` on, are for."""
    wants: list[Want | Reading] = []
    if not row.n_outputs:
        return wants
    begin, end = row.position + row.length - row.n_outputs, row.position + row.length
    told = max(0, generation.read - begin)  # before another took its place
    if (
        generation.job.reads
        and row.position < min(generation.prefill, len(generation.job.prompt))
        and begin + told < end
    ):
        wants.append(Reading(generation.ticket, output + told, row.n_outputs - told, begin + told))
    if generation.job.draws and row.position + row.length >= generation.prefill:
        drafted = len(generation.drafts)
        first = output + row.n_outputs - 1 - drafted
        wants.append(Want(generation.ticket, first, len(generation.tokens), generation.drafts))
    return wants


def _too_late(generation: Generation) -> DeadlineExceeded:
    waits = generation.admitted is None
    state = "while waiting for a KV slot" if waits else f"after {generation.n_generated} tokens"
    return DeadlineExceeded(f"the request's time ran out {state}")
