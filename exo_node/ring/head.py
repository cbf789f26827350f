"""The head's mind (ARCHITECTURE 3.5, 3.6) as pure logic: requests, cancels, returned steps in; steps, notices out.

No I/O, no engine, no clock: `now` (seconds, monotonic) is an argument. The caller runs each step that `next_step` hands
out through its own stage and on round the ring, calls `home` when it is back, draws a token for every `Want`, and tells
it by `token`. Returned steps go before new ones.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from exo_node.errors import DeadlineExceeded, ExoError, InvalidRequest, NoCapacity, RingBroken
from exo_node.ring.admission import check_job, finished_already
from exo_node.ring.messages import Drop, Epoch, Op, Report, Row, Step
from exo_node.ring.scheduler import Budget, chunk_length, decode_share
from exo_node.ring.sequences import Delta, Failed, Generation, Job, Notice, Reading, TokenChoice, Want
from exo_node.types import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSetup:
    """What a Configure told the head: the pools' smallest figures. `vector_bytes` is one hidden vector on the wire."""

    epoch: Epoch
    n_stages: int
    slots: int
    context: int
    max_chunk: int
    vocab_size: int
    vector_bytes: int
    max_waiting: int = 1024  # requests that queue for a slot before new ones are told to come back later


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
    sent: float


class Head:
    """The scheduler of one epoch of one instance."""

    def __init__(self, setup: RingSetup) -> None:
        self.setup = setup
        self.broken: ExoError | None = None
        self.steps = 0  # number of the newest step
        self.tokens = 0  # tokens delivered
        self.next_deadline = math.inf  # when `expire` is due next
        self._budget = Budget.of(setup.n_stages)
        self._home = 0
        self._bytes = 0
        self._in_flight: deque[_InFlight] = deque()
        self._waiting: deque[Generation] = deque()
        self._running: dict[int, Generation] = {}  # by ticket: all that hold a slot
        self._prefilling: Generation | None = None
        self._ready: deque[Generation] = deque()
        self._n_decoding = 0  # running and past their prefill
        self._drops: list[int] = []
        self._lengths: dict[int, int] = {}  # by sequence: what every pool holds once the newest step has run
        self._cached_tokens = 0
        self._next_sequence = 1
        self._by_request: dict[str, Generation] = {}

    # ---- events -------------------------------------------------------------------------------------------------

    def submit(self, ticket: int, job: Job, now: float) -> list[Notice]:
        """A new generation. It waits for a slot in order of arrival; a bad or surplus one fails at once.

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
        if job.deadline is not None:
            self.next_deadline = min(job.deadline, self.next_deadline)
        self._waiting.append(generation)
        self._by_request[job.request_id] = generation
        return notices

    def cancel(self, ticket: int) -> None:
        """The caller has gone: no more rows, and every shard drops the sequence with the next step."""
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
        self._bytes -= entry.n_bytes
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

    def read(self, reading: Reading, choices: tuple[TokenChoice, ...], vector: bytes) -> Delta:
        """What was read off the prompt by a `Reading` of the step that has just come home."""
        generation = self._running[reading.ticket]
        finish: FinishReason | None = None
        if not generation.job.draws and reading.position + reading.count == generation.prefill:
            finish = "length" if generation.job.pooling is None else "stop"
            self._remove(generation)
        return Delta(reading.ticket, generation.n_generated, None, finish, prompt=choices, vector=vector)

    def token(self, ticket: int, choice: TokenChoice, now: float) -> Delta:
        """The token drawn for a `Want` of the step that has just come home."""
        generation = self._running[ticket]
        index = generation.n_generated
        generation.tokens.append(choice.token)
        generation.n_generated += 1
        self.tokens += 1
        finish = generation.finish_after(choice, self.setup.context)
        if finish is not None:
            self._remove(generation)
        else:
            self._ready.append(generation)
        if not generation.first:
            return Delta(ticket, index, choice, finish)
        generation.first = False
        queue_us = round((generation.admitted - generation.arrived) * 1e6)
        return Delta(ticket, index, choice, finish, queue_us, round((now - generation.admitted) * 1e6))

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
        self._waiting.clear()
        self._running.clear()
        self._ready.clear()
        self._by_request.clear()
        self._drops.clear()
        self._in_flight.clear()
        self._prefilling = None
        self._n_decoding = self._bytes = 0
        return notices

    # ---- decisions ----------------------------------------------------------------------------------------------

    def next_step(self, now: float) -> Outgoing | None:
        """The next micro-batch, or None when there is nothing to do or the budget in flight is spent."""
        if self.broken is not None or len(self._in_flight) >= self._budget.max_steps:
            return None
        self._admit(now)
        decoding = self._pick_decoding()
        chunk = 0
        if self._prefilling is not None:
            chunk = chunk_length(self._prefilling.sent, self._prefilling.prefill, self.setup.max_chunk)
        # The first step of an epoch may be empty: it opens every hop and shows that the ring is closed.
        if not decoding and not chunk and not self._drops and self.steps:
            return None
        n_bytes = (len(decoding) + chunk) * self.setup.vector_bytes
        if self._in_flight and self._bytes + n_bytes > self._budget.max_bytes:
            self._ready.extendleft(reversed(decoding))
            return None
        ops: list[Op] = []
        for sequence in self._drops:
            ops.append(Drop(sequence))
            self._cached_tokens -= self._lengths.pop(sequence)
        self._drops.clear()
        rows = [(self._row(generation, 1), generation) for generation in decoding]
        if chunk:
            assert self._prefilling is not None
            rows.append((self._row(self._prefilling, chunk), self._prefilling))
            self._prefill_sent(self._prefilling)
        self.steps += 1
        step = Step(self.setup.epoch, self.steps, tuple(ops), tuple(row for row, _ in rows))
        tokens = tuple(one.tokens[row.position : row.position + row.length] for row, one in rows)
        flown = tuple((row, one.ticket) for row, one in rows)
        self._in_flight.append(_InFlight(flown, len(self._lengths), self._cached_tokens, n_bytes, now))
        self._bytes += n_bytes
        return Outgoing(step, tokens)

    def sent_at(self) -> float | None:
        """When the oldest step in flight was sent: a progress watch compares it with the clock."""
        return self._in_flight[0].sent if self._in_flight else None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    # ---- inside -------------------------------------------------------------------------------------------------

    def _admit(self, now: float) -> None:
        """One prompt at a time is on its way in; the next waits until its last chunk is sent and a slot is free."""
        free = self.setup.slots - (len(self._lengths) - len(self._drops))
        if self._prefilling is None and self._waiting and free > 0:
            generation = self._waiting.popleft()
            generation.admitted = now
            generation.sequence = self._next_sequence
            self._next_sequence += 1
            self._running[generation.ticket] = generation
            self._prefilling = generation

    def _pick_decoding(self) -> list[Generation]:
        share = decode_share(self._n_decoding, self.setup.n_stages)
        picked: list[Generation] = []
        while self._ready and len(picked) < share:
            generation = self._ready.popleft()
            if generation.ticket in self._running:
                picked.append(generation)
        return picked

    def _row(self, generation: Generation, length: int) -> Row:
        position = generation.sent
        generation.sent += length
        generation.in_flight += 1
        self._lengths[generation.sequence] = generation.sent
        self._cached_tokens += length
        last = self.setup.n_stages - 1
        n_outputs = 1 if generation.sent == len(generation.tokens) else 0
        if generation.reads_at(position):
            n_outputs = length
        return Row(generation.sequence, position, length, n_outputs, False, 0, last)

    def _prefill_sent(self, generation: Generation) -> None:
        if generation.sent == generation.prefill:
            self._prefilling = None
            self._n_decoding += 1

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
        if self._running.pop(generation.ticket, None) is None:
            self._waiting.remove(generation)
            return
        if generation is self._prefilling:
            self._prefilling = None
        elif generation.sent >= generation.prefill:
            self._n_decoding -= 1
        if generation.sent:
            self._drops.append(generation.sequence)


def _wants(generation: Generation, row: Row, output: int) -> list[Want | Reading]:
    """What the outputs of a row, from `output` on, are for."""
    wants: list[Want | Reading] = []
    if not row.n_outputs:
        return wants
    if generation.job.reads and row.position < generation.prefill:
        wants.append(Reading(generation.ticket, output, row.n_outputs, row.position + row.length - row.n_outputs))
    if generation.job.draws and row.position + row.length >= generation.prefill:
        wants.append(Want(generation.ticket, output + row.n_outputs - 1, len(generation.tokens)))
    return wants


def _too_late(generation: Generation) -> DeadlineExceeded:
    state = f"after {generation.n_generated} tokens" if generation.sequence else "while waiting for a KV slot"
    return DeadlineExceeded(f"the request's time ran out {state}")
