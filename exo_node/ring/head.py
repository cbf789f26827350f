"""The head's mind (ARCHITECTURE 3.5 to 3.8) as pure logic: requests, cancels, returned steps in; steps, notices out.

No I/O, no engine, no clock: `now` (seconds, monotonic) is an argument. The caller runs each step that `next_step` hands
out through its own stage and on round the ring, calls `home` when it is back, draws a token for every `Want`, tells it
by `token`, and at last what the step took by `measured`. Returned steps go before new ones.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exo_node.errors import DeadlineExceeded, ExoError, InvalidRequest, NoCapacity, RingBroken
from exo_node.ring.admission import check_job, finished_already
from exo_node.ring.drafting import Drafter, Drafting
from exo_node.ring.kv_account import BLOCK
from exo_node.ring.messages import Epoch, Report, Row, Step
from exo_node.ring.residents import PoolRules, Residents
from exo_node.ring.scheduler import Budget, chunk_length, decode_share, micro_batches, slice_budget
from exo_node.ring.sequences import RANKS, Delta, Failed, Generation, Job, Notice, Reading, TokenChoice, Want
from exo_node.ring.step_times import RingTimes
from exo_node.ring.waiting import PROMPT_SHARE, WaitingQueue
from exo_node.types import FinishReason

QUANTUM = 16  # steps that a generation is sure of before one of a higher priority may take its place
REPLAN = 16  # steps after which the number of micro-batches is looked at again


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSetup:
    """What a Configure told the head: the pools' smallest figures. `vector_bytes` is one hidden vector on the wire.

    `kv_tokens`, `block`, `rollback_depth`, `copy_any`, `prefix_cache`, `reproducible`: see `residents.PoolRules`.
    `speculation`: rows may carry drafted tokens (never where `reproducible`: a longer row's bits differ).
    """

    epoch: Epoch
    n_stages: int
    slots: int
    context: int
    max_chunk: int
    vocab_size: int
    vector_bytes: int
    max_waiting: int = 1024  # requests that queue for a slot before new ones are told to come back later
    kv_tokens: int = 0
    block: int = BLOCK
    rollback_depth: int | None = None
    copy_any: bool = True
    prefix_cache: bool = False
    speculation: bool = False
    reproducible: bool = False


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A step to run: `tokens[i]` are the ids of row i."""

    step: Step
    tokens: tuple[Sequence[int], ...]


@dataclass(frozen=True, slots=True)
class _InFlight:
    rows: tuple[tuple[Row, int], ...]  # with the ticket
    sequences: int
    cached_tokens: int
    n_bytes: int
    n_tokens: int
    decodes: bool
    sent: float


@dataclass(slots=True)
class Counts:
    """Since the epoch began."""

    tokens: int = 0  # delivered
    drafted: int = 0
    accepted: int = 0
    preempted: int = 0


class Head:
    """The scheduler of one epoch of one instance."""

    def __init__(self, setup: RingSetup, make_drafter: Callable[[list[int]], Drafting] = Drafter) -> None:
        """`make_drafter` is given a generation's tokens, which grow."""
        self.setup = setup
        self._make_drafter = make_drafter
        self.broken: ExoError | None = None
        self.steps = 0  # number of the newest step
        self.counts = Counts()
        self.next_deadline = math.inf  # when `expire` is due next
        self.times = RingTimes(setup.n_stages)
        self.residents = Residents(
            PoolRules(
                slots=setup.slots,
                context=setup.context,
                max_chunk=setup.max_chunk,
                kv_tokens=setup.kv_tokens,
                block=setup.block,
                rollback_depth=setup.rollback_depth,
                copy_any=setup.copy_any,
                keep=setup.prefix_cache,
                reproducible=setup.reproducible,
            )
        )
        self._budget = Budget.of(setup.n_stages)
        self._micro_batches = 1
        self._planned_for = (0, 0)  # decoding sequences and steps home when micro-batches were last counted
        self._home = 0  # number of the step that came home last
        self._home_tokens = 0  # of that step
        self._bytes = 0
        self._in_flight: deque[_InFlight] = deque()
        self._decode_steps = 0  # of those in flight, with decode rows
        self._waiting = WaitingQueue()
        self._running: dict[int, Generation] = {}  # by ticket: all that hold a slot
        self._prefilling: list[Generation] = []  # in order of admission
        self._ready: deque[Generation] = deque()
        self._n_decoding = 0  # running and past their prefill
        self._admitted = 0
        self._by_request: dict[str, Generation] = {}

    # ---- events -------------------------------------------------------------------------------------------------

    def submit(self, ticket: int, job: Job, now: float) -> list[Notice]:
        """A new generation. It waits for its turn (waiting.py); a bad or surplus one fails at once.

        The newest attempt of a request wins: an older one that still runs is ended here.
        """
        if self.broken is not None:
            return [Failed(ticket, self.broken)]
        try:
            check_job(job, self.setup.context, self.setup.vocab_size)
            notices = self._replace(job)
            if len(self._waiting) >= self.setup.max_waiting:
                raise NoCapacity(
                    f"{len(self._waiting)} requests wait for this model already: try again later", retry_after=1.0
                )
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
        self._waiting.add(generation)
        self._by_request[job.request_id] = generation
        return notices

    def cancel(self, ticket: int) -> None:
        """The caller has gone: no more rows."""
        generation = self._find(ticket)
        if generation is not None:
            self._remove(generation)

    def expire(self, now: float) -> list[Notice]:
        """End the generations whose time has run out."""
        if now < self.next_deadline:
            return []
        late = [one for one in (*self._waiting, *self._running.values()) if (one.job.deadline or now + 1) <= now]
        for generation in late:
            self._remove(generation)
        left = (one.job.deadline for one in (*self._waiting, *self._running.values()))
        self.next_deadline = min((deadline for deadline in left if deadline is not None), default=math.inf)
        return [Failed(one.ticket, _too_late(one)) for one in late]

    def home(self, number: int, reports: Sequence[Report], now: float) -> list[Want | Reading]:
        """Step `number` has come round. Checks every stage's report against the head's own account.

        Raises `RingBroken` where they differ: the caller then calls `fail`.
        """
        if number != self._home + 1 or not self._in_flight:
            raise RingBroken(f"step {number} came home where step {self._home + 1} was due")
        self._home = number
        entry = self._in_flight.popleft()
        self._home_tokens = entry.n_tokens
        self._bytes -= entry.n_bytes
        self._decode_steps -= entry.decodes
        if [report.stage for report in reports] != list(range(self.setup.n_stages)):
            raise RingBroken(
                f"step {number} was reported by stages {[report.stage for report in reports]} of {self.setup.n_stages}"
            )
        for report in reports:
            if (report.sequences, report.cached_tokens) != (entry.sequences, entry.cached_tokens):
                raise RingBroken(
                    f"after step {number} stage {report.stage} holds {report.sequences} sequences with "
                    f"{report.cached_tokens} tokens, the head counts {entry.sequences} with {entry.cached_tokens}"
                )
        wants: list[Want | Reading] = []
        output = 0
        for row, ticket in entry.rows:
            generation = self._running.get(ticket)
            if generation is not None:
                generation.in_flight -= 1
                wants += _wants(generation, row, output)
            output += row.n_outputs
        return wants

    def measured(self, reports: Sequence[Report], trip: float, finish: float) -> None:
        """The step that came home last was `trip` seconds under way, and its outputs took the head `finish` more."""
        if self._home_tokens and self._home > 1:  # an epoch's first step also opens its streams
            self.times.add(self._home_tokens, reports, trip, finish)

    def read(self, reading: Reading, choices: tuple[TokenChoice, ...], vector: bytes) -> Delta:
        """What was read off the prompt by a `Reading` of the step that has just come home."""
        generation = self._running[reading.ticket]
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
        generation = self._running[ticket]
        index = generation.n_generated
        generation.tokens.append(choice.token)
        generation.n_generated += 1
        self.counts.tokens += 1
        self._waiting.charge(generation, 1.0)
        right = bool(generation.drafts) and generation.drafts[0] == choice.token
        if right:
            generation.drafts = generation.drafts[1:]
            generation.sent += 1
            self.counts.accepted += 1
        finish = generation.finish_after(choice, self.setup.context)
        if finish is not None:
            self._remove(generation)
        elif not right:
            if generation.drafter is not None:
                generation.drafter.settle(len(generation.drafts))
            generation.drafts = ()
            self._ready.append(generation)
        more = right and finish is None
        if not generation.first:
            return Delta(ticket, index, choice, finish), more
        generation.first = False
        admitted = generation.admitted or now
        queue_us, prefill_us = round((admitted - generation.arrived) * 1e6), round((now - admitted) * 1e6)
        return Delta(ticket, index, choice, finish, queue_us, prefill_us, cached=generation.cached), more

    def refuse(self, ticket: int, error: ExoError) -> Failed:
        """End one generation with `error` (its sampler failed); the ring goes on."""
        self.cancel(ticket)
        return Failed(ticket, error)

    def fail(self, error: ExoError) -> list[Notice]:
        """The epoch is over: every generation fails with `error`, and so does every new one until a Configure."""
        if self.broken is not None:
            return []
        self.broken = error
        notices: list[Notice] = [Failed(one.ticket, error) for one in (*self._running.values(), *self._waiting)]
        for one in self._running.values():
            if one.drafter is not None:
                one.drafter.rest()
        self._waiting.clear()
        self._running.clear()
        self._ready.clear()
        self._by_request.clear()
        self._in_flight.clear()
        self._prefilling.clear()
        self._n_decoding = self._bytes = 0
        return notices

    # ---- decisions ----------------------------------------------------------------------------------------------

    def next_step(self, now: float) -> Outgoing | None:
        """The next micro-batch, or None when there is nothing to do or the budget in flight is spent."""
        if self.broken is not None or len(self._in_flight) >= self._budget.max_steps:
            return None
        self.residents.begin_step()
        self._admit(now)
        self._plan()
        decoding = self._pick_decoding()
        slices = self._pick_slices(decoding)
        # Making room for one may have cost another its place that was picked before.
        decoding = [one for one in decoding if one.sequence]
        slices = [(one, length) for one, length in slices if one.sequence]
        # The first step of an epoch may be empty: it opens every hop and shows that the ring is closed.
        if not decoding and not slices and not self.residents.has_ops and self.steps:
            return None
        for generation in decoding:
            self._draft(generation, len(decoding))
        n_tokens = sum(1 + len(one.drafts) for one in decoding) + sum(length for _, length in slices)
        n_bytes = n_tokens * self.setup.vector_bytes
        if self._in_flight and self._bytes + n_bytes > self._budget.max_bytes:
            for generation in reversed(decoding):
                generation.drafts = ()
                self._ready.appendleft(generation)
            return None
        ops = self.residents.take_ops()
        rows = [(self._decode_row(one), one) for one in decoding]
        rows += [(self._prefill_row(one, length), one) for one, length in slices]
        self.steps += 1
        step = Step(self.setup.epoch, self.steps, ops, tuple(row for row, _ in rows))
        tokens = tuple(_ids(row, one) for row, one in rows)
        flown = tuple((row, one.ticket) for row, one in rows)
        account = self.residents.account
        self._in_flight.append(
            _InFlight(flown, account.sequences, account.cached_tokens, n_bytes, n_tokens, bool(decoding), now)
        )
        self._bytes += n_bytes
        self._decode_steps += bool(decoding)
        return Outgoing(step, tokens)

    def sent_at(self) -> float | None:
        """When the oldest step in flight was sent: a progress watch compares it with the clock."""
        return self._in_flight[0].sent if self._in_flight else None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def micro_batches(self) -> int:
        """Into how many the decoding sequences are cut."""
        return self._micro_batches

    @property
    def running(self) -> int:
        return len(self._running)

    # ---- inside -------------------------------------------------------------------------------------------------

    def _admit(self, now: float) -> None:
        """Slots to those whose turn it is, while there is room for their prompts."""
        while (generation := next((one for one in self._waiting.turns() if self._make_place(one)), None)) is not None:
            self._waiting.start(generation)
            self._admitted += 1
            generation.order, generation.since = self._admitted, self.steps
            if generation.admitted is None:
                generation.admitted, generation.cached = now, generation.sent
            self._running[generation.ticket] = generation
            self._prefilling.append(generation)
            self._waiting.charge(generation, (generation.prefill - generation.sent) * PROMPT_SHARE)

    def _make_place(self, generation: Generation) -> bool:
        while not self._has_place(generation):
            # Those that can wait keep no place from those that should not.
            if not self._preempt(generation, same_rank=False):
                return False
        return True

    def _has_place(self, generation: Generation) -> bool:
        account = self.residents.account
        promised = sum(account.growth(one.sequence, one.prefill) for one in self._prefilling)
        at_most = sum(account.growth(one.sequence, one.longest(self.setup.context)) for one in self._running.values())
        reserve = min(account.charge(1), max(0, at_most - promised))
        return self.residents.admit(generation, promised, reserve)

    def _plan(self) -> None:
        """How many micro-batches the decoding sequences make, from the times that the ring has shown."""
        now = (self._n_decoding, self._home // REPLAN)
        if now != self._planned_for:
            self._planned_for = now
            self._micro_batches = micro_batches(self._n_decoding, self.times)
            self._budget = Budget.of(self.setup.n_stages, self._micro_batches)

    def _pick_decoding(self) -> list[Generation]:
        """An even share of those that decode, as far as they are ready and there is memory for them."""
        picked: list[Generation] = []
        if self._decode_steps >= self._micro_batches:
            return picked  # the others go with the next that comes home, in one step
        share = decode_share(self._n_decoding, self._micro_batches)
        starved: list[Generation] = []
        while self._ready and len(picked) < share:
            generation = self._ready.popleft()
            if self._running.get(generation.ticket) is not generation or not generation.decoding:
                continue  # it has ended, or given its place up
            if self._has_room(generation, len(generation.tokens)):
                picked.append(generation)
            elif self._running.get(generation.ticket) is generation:
                starved.append(generation)
        self._ready.extendleft(reversed(starved))
        return picked

    def _pick_slices(self, decoding: Sequence[Generation]) -> list[tuple[Generation, int]]:
        """What goes with them of prompts: (generation, tokens)."""
        coming = list(self._prefilling)
        if not coming:
            return []
        chunk = self.setup.max_chunk
        budget = chunk
        if self.setup.reproducible:
            coming = coming[:1]
        else:
            if self._n_decoding and not decoding and len(self._in_flight) >= self.setup.n_stages:
                return []  # every stage has work; more would only stand in the way of the rows that decode
            busy = len(decoding) or (1 if self._n_decoding else 0)
            # The oldest first; every other time the shortest, which would wait long behind a long one.
            if self._home % 2:
                coming.sort(key=lambda one: one.prefill - one.sent)
            budget = max(1, slice_budget(busy, chunk - len(decoding), self.times))
        picked: list[tuple[Generation, int]] = []
        for generation in coming:
            if not budget:
                break
            if not generation.sequence:
                continue  # it has just given its place up
            self._look_again(generation)
            if self.setup.reproducible:
                length = _fixed_chunk(generation, chunk)
            else:
                length = min(generation.prefill - generation.sent, budget)
            budget -= length
            if self._has_room(generation, generation.sent + length):
                picked.append((generation, length))
        return picked

    def _look_again(self, generation: Generation) -> None:
        """Nothing of its prompt was sent yet: others may have sent the beginning meanwhile."""
        found = self.residents.look_again(generation)
        if found:
            self._waiting.charge(generation, -found * PROMPT_SHARE)
            if not generation.back:
                generation.cached = found

    def _has_room(self, generation: Generation, length: int) -> bool:
        """Memory for the sequence to hold `length`: finished ones go first, then those that were admitted last."""
        while not self.residents.grow(generation, length):
            if not self._preempt(generation, same_rank=True):
                return False
        return True

    def _preempt(self, generation: Generation, *, same_rank: bool) -> bool:
        """Send the least important running generation back to its queue, to be computed again later. False where there
        is none of a lower priority than `generation`, which has had its quantum; or, for the memory that a running one
        cannot do without (`same_rank`), none that is less important."""
        mine = self._importance(generation) if same_rank else (True, RANKS[generation.job.priority], math.inf)
        others = [
            one
            for one in self._running.values()
            if one is not generation
            and not one.in_flight
            and (same_rank or self.steps - one.since >= QUANTUM)
            and self._importance(one) > mine
        ]
        victim = max(others, key=self._importance, default=None)
        if victim is None:
            return False
        self._waiting.add(victim, first=True)  # before it leaves: what its caller was served is not forgotten
        self._leave(victim)
        if victim in self._ready:
            self._ready.remove(victim)
        victim.prefill, victim.sent, victim.drafts, victim.back = len(victim.tokens), 0, (), True
        self.counts.preempted += 1
        return True

    def _importance(self, generation: Generation) -> tuple[bool, int, float]:
        """The smaller, the longer it keeps its place: by priority, then by age. One that is back is sure of its prompt
        and of a quantum: else others might take its place again and again before it has come any further."""
        sure = generation.back and (not generation.decoding or self.steps - generation.since < QUANTUM)
        return (not sure, RANKS[generation.job.priority], generation.order)

    def _draft(self, generation: Generation, rows: int) -> None:
        """Guess what comes after the newest token, where that pays and there is room."""
        generation.drafts = ()
        if generation.drafter is None:
            return
        tokens = len(generation.tokens)
        room = min(generation.job.max_tokens - generation.n_generated, self.setup.context - tokens) - 1
        draft = generation.drafter.propose(min(room, self.setup.max_chunk - 1), rows, self.times)
        if draft and self.residents.grow(generation, tokens + len(draft)):
            generation.drafts = tuple(draft)
            self.counts.drafted += len(draft)
        elif draft:
            generation.drafter.settle(None)

    def _decode_row(self, generation: Generation) -> Row:
        drafted = len(generation.drafts)
        position, generation.sent = generation.sent, len(generation.tokens)
        row = self._row(generation, position, 1 + drafted, 1 + drafted)
        return row

    def _prefill_row(self, generation: Generation, length: int) -> Row:
        position = generation.sent
        generation.sent += length
        n_outputs = 1 if generation.sent == len(generation.tokens) else 0
        if generation.reads_at(position, length):
            n_outputs = length
        if generation.decoding:
            self._prefilling.remove(generation)
            self._n_decoding += 1
            generation.since = self.steps
        return self._row(generation, position, length, n_outputs)

    def _row(self, generation: Generation, position: int, length: int, n_outputs: int) -> Row:
        held = self.residents.account.length(generation.sequence) if generation.sequence > 0 else 0
        generation.in_flight += 1
        self.residents.sent(generation, position + length)
        last = self.setup.n_stages - 1
        return Row(generation.sequence, position, length, n_outputs, position < held, 0, last)

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

    def _find(self, ticket: int) -> Generation | None:
        running = self._running.get(ticket)
        return running or next((one for one in self._waiting if one.ticket == ticket), None)

    def _remove(self, generation: Generation) -> None:
        if self._by_request.get(generation.job.request_id) is generation:
            del self._by_request[generation.job.request_id]
        if generation.ticket in self._running:
            self._leave(generation)
        else:
            self._waiting.remove(generation)

    def _leave(self, generation: Generation) -> None:
        """It gives its slot up."""
        del self._running[generation.ticket]
        if generation in self._prefilling:
            self._prefilling.remove(generation)
        else:
            self._n_decoding -= 1
        self._waiting.stop(generation)
        self.residents.release(generation)
        if generation.drafter is not None:
            generation.drafter.rest()


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


def _ids(row: Row, generation: Generation) -> Sequence[int]:
    known = generation.tokens[row.position : row.position + row.length]
    return [*known, *generation.drafts] if len(known) < row.length else known


def _fixed_chunk(generation: Generation, max_chunk: int) -> int:
    """The next chunk where bits must come out the same: what was generated before goes as it was, token by token."""
    prompt = len(generation.job.prompt)
    if generation.sent >= prompt:
        return 1
    return chunk_length(generation.sent, min(prompt, generation.prefill), max_chunk)


def _too_late(generation: Generation) -> DeadlineExceeded:
    waits = generation.admitted is None
    state = "while waiting for a KV slot" if waits else f"after {generation.n_generated} tokens"
    return DeadlineExceeded(f"the request's time ran out {state}")
