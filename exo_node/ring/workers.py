"""What a runner's engine thread does with events: a follower passes steps on, the head drives the ring.

Events come in one at a time by `handle`; what goes out goes to an `Outlet`, which must not block. No threads, no
sockets here: `runner_engine.py` brings the queue, `runner_service.py` the network.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from exo_node.errors import EngineFailed, ExoError, InvalidRequest, PeerUnavailable, RingBroken
from exo_node.ring.drafting import Drafter, Drafting
from exo_node.ring.events import Cancel, Configure, Event, Fence, Holdings, Lost, Outlet, StepIn, Submit
from exo_node.ring.head import Head
from exo_node.ring.head_data import Memory, Outgoing
from exo_node.ring.messages import NO_EPOCH, Epoch, Failure, Report, Step
from exo_node.ring.prompt_reading import PromptReader, reader_of
from exo_node.ring.sampler import Constraint, Floats, Sampler
from exo_node.ring.sequences import Failed, Job, Notice, Reading, Want
from exo_node.ring.stage import Stage
from exo_node.ring.wire import add_report, pass_on, read_epoch, read_step, step_frame
from exo_node.transport.codec import StepFrame

HOPS_KEPT = 512  # samples for the benchmark; some 100 KB
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hop:
    """One round trip: microseconds from sending to home, and every stage's report."""

    step: int
    total_us: int
    reports: tuple[Report, ...]


class FollowerWorker:
    """Any stage but the head: takes a step, computes it, passes it on."""

    def __init__(self, instance_id: str, stage: Stage, outlet: Outlet) -> None:
        self.stage = stage
        self._instance_id = instance_id
        self._outlet = outlet

    def handle(self, event: Event) -> None:
        match event:
            case StepIn(frame, arrived_ns):
                self._step(frame, arrived_ns)
            case Configure():
                _configure(self.stage, event)
            case Fence():
                _fence(self.stage, event)
            case Lost(epoch, stage, error):
                self._lost(epoch, stage, error)
            case Memory():
                self.stage.give_back()
            case _:
                raise AssertionError(f"not for a follower: {event}")

    def advance(self) -> bool:
        return False

    def wake_at(self) -> float | None:
        return None

    def _step(self, frame: StepFrame, arrived_ns: int) -> None:
        begun = self.stage.clock_ns()
        logic = self.stage.logic
        if self.stage.is_over(read_epoch(frame.message.epoch)):
            return  # a Fence or a Configure has ended its epoch since this arrived
        step = read_or_fail(frame, logic.stage, reports=False)
        decoded = self.stage.clock_ns()
        result = self.stage.run(step)
        computed = self.stage.clock_ns()
        out = pass_on(frame, result.step, int8=self.stage.int8_rows)
        codec_us = (decoded - begun + self.stage.clock_ns() - computed) // 1000
        add_report(
            out.message,
            self.stage.report(queue_us=(begun - arrived_ns) // 1000, engine_us=result.engine_us, codec_us=codec_us),
        )
        self._outlet.send(logic.epoch, out.to_bytes())

    def _lost(self, epoch: Epoch, stage: int, error: ExoError) -> None:
        """Tell the head, by way of the stages that are left, who is missing."""
        logic = self.stage.logic
        if epoch != logic.epoch or logic.broken is not None:
            return
        logic.breaks(error.message)
        failure = Failure(stage, error.code or "peer_unavailable", error.message)
        step = Step(epoch, logic.steps + 1, failure=failure)
        self._outlet.send(epoch, step_frame(self._instance_id, step).to_bytes())


class HeadWorker:
    """The first stage: scheduler, own layers, LM head and sampling; a ring of one never leaves this thread."""

    def __init__(
        self, instance_id: str, stage: Stage, outlet: Outlet, make_drafter: Callable[[list[int]], Drafting] = Drafter
    ) -> None:
        """`make_drafter`: see `Head`."""
        self.stage = stage
        self.head: Head | None = None
        self._make_drafter = make_drafter
        self.hops: deque[Hop] = deque(maxlen=HOPS_KEPT)
        self._instance_id = instance_id
        self._outlet = outlet
        self._samplers: dict[int, Sampler] = {}
        self._readers: dict[int, PromptReader] = {}
        self._sent_ns: dict[int, int] = {}
        self._memory = Memory()

    def handle(self, event: Event) -> None:
        match event:
            case StepIn(frame, arrived_ns):
                self._step_home(frame, arrived_ns)
            case Submit(ticket, job, constraint):
                self._submit(ticket, job, constraint)
            case Cancel(ticket):
                self._samplers.pop(ticket, None)
                self._readers.pop(ticket, None)
                if self.head is not None:
                    self.head.cancel(ticket)
            case Lost(epoch, _, error):
                if epoch == self._epoch:
                    self._fail(error)
            case Memory():
                self._memory = event
                self._spare()
            case Configure():
                self._configure(event)
            case Fence(epoch):
                if _fence(self.stage, event) and self.head is not None:
                    self._fail(RingBroken(f"the ring goes on as epoch {epoch}", code="stale_epoch"))

    def advance(self) -> bool:
        """Send or run one micro-batch."""
        head = self.head
        if head is None or self.stage.is_over(self._epoch):
            return False
        now = time.monotonic()
        if now >= head.next_deadline:
            self._notify(head.expire(now))
        outgoing = head.next_step(now)
        if outgoing is None:
            return False
        self._run(outgoing)
        return True

    def wake_at(self) -> float | None:
        return None if self.head is None or self.head.next_deadline == float("inf") else self.head.next_deadline

    @property
    def _epoch(self) -> Epoch:
        return NO_EPOCH if self.head is None else self.head.setup.epoch

    def _configure(self, event: Configure) -> None:
        assert event.setup is not None
        if not _configure(self.stage, event):
            return
        if self.head is not None:
            self._fail(RingBroken(f"the ring was set up anew as epoch {event.epoch}: send the request again"))
        self.head = Head(event.setup, self._make_drafter)
        self._spare()
        self._sent_ns.clear()

    def _spare(self) -> None:
        if self.head is not None:
            self.head.spare(self._memory)
        if self._memory.level != "ok":
            self.stage.give_back()

    def _submit(self, ticket: int, job: Job, constraint: Constraint | None) -> None:
        if self.head is None:
            self._notify([Failed(ticket, RingBroken("this runner is in no ring yet"))])
            return
        if (reader := reader_of(job)) is not None:
            self._readers[ticket] = reader
        self._samplers[ticket] = Sampler(job.sampling, job.prompt, job.generated, constraint)
        self._notify(self.head.submit(ticket, job, time.monotonic()))

    def _run(self, outgoing: Outgoing) -> None:
        begun = self.stage.clock_ns()
        step = outgoing.step
        alone = self.stage.logic.n_stages == 1
        # Without an output nobody would ask a lazy engine for its numbers: the export makes it compute.
        export = not alone or not any(row.n_outputs for row in step.rows)
        result = self.stage.run(step, outgoing.tokens, export=export)
        if alone:
            report = self.stage.report(queue_us=0, engine_us=result.engine_us, codec_us=0)
            done = replace(result.step, reports=(report,))
            self._home(done, result.activation, (self.stage.clock_ns() - begun) // 1000)
            return
        computed = self.stage.clock_ns()
        frame = step_frame(self._instance_id, result.step, int8=self.stage.int8_rows)
        codec_us = (self.stage.clock_ns() - computed) // 1000
        add_report(frame.message, self.stage.report(queue_us=0, engine_us=result.engine_us, codec_us=codec_us))
        self._sent_ns[step.number] = begun
        self._outlet.send(step.epoch, frame.to_bytes())

    def _step_home(self, frame: StepFrame, arrived_ns: int) -> None:
        if self.head is None or self.stage.is_over(read_epoch(frame.message.epoch)):
            return
        step = read_or_fail(frame, self.stage.logic.n_stages - 1)
        total_us = (arrived_ns - self._sent_ns.pop(step.number, arrived_ns)) // 1000
        self._home(step, step.hidden, total_us)

    def _home(self, step: Step, activation: Any | None, total_us: int) -> None:
        """A step has come round: draw the tokens it was for."""
        head = self.head
        assert head is not None
        if head.broken is not None:
            return
        if step.failure is not None:
            self._fail(failure_error(step.failure))
            return
        self.hops.append(Hop(step.number, total_us, step.reports))
        begun = self.stage.clock_ns()
        try:
            wants = head.home(step.number, step.reports, time.monotonic())
            if not wants:
                head.measured(step.reports, total_us / 1e6, 0.0)
                return
            notices: list[Notice] = []
            for reading in (want for want in wants if isinstance(want, Reading)):
                notices += self._read(head, reading, activation)
            # What was read of a prompt may have ended it.
            draws = [want for want in wants if isinstance(want, Want) and head.runs(want.ticket)]
            logits = self.stage.logits(activation, [one for want in draws for one in want.outputs]) if draws else ()
        except ExoError as error:
            self._fail(error)
            return
        # The LM head runs in a framework that raises whatever it likes; uncaught it would end the thread in silence.
        except Exception as error:
            self._fail(RingBroken(f"stage 0: {type(error).__name__}: {error}", code="engine_failed"))
            return
        now = time.monotonic()
        at = 0
        for want in draws:
            notices += self._draw(head, want, logits[at : at + len(want.outputs)], now)
            at += len(want.outputs)
        head.measured(step.reports, total_us / 1e6, (self.stage.clock_ns() - begun) / 1e9)
        self._notify(notices)

    def _draw(self, head: Head, want: Want, logits: Sequence[Floats], now: float) -> list[Notice]:
        """The tokens that a row's outputs give: one, and one more for each draft that turns out right."""
        sampler = self._samplers[want.ticket]
        notices: list[Notice] = []
        for offset, scores in enumerate(logits):
            try:
                choice = sampler.draw(scores, want.position + offset)
            except ExoError as error:
                return [*notices, head.refuse(want.ticket, error)]
            delta, more = head.token(want.ticket, choice, now)
            notices.append(delta)
            if not more:
                break
        return notices

    def _read(self, head: Head, reading: Reading, activation: Any) -> list[Notice]:
        """Tell the caller what was read off its prompt, if it is anything yet."""
        try:
            found = self._readers[reading.ticket].read(self.stage, activation, reading)
        except (EngineFailed, InvalidRequest) as error:
            return [head.refuse(reading.ticket, error)]
        told = head.read(reading, found.choices, found.vector)
        return [told] if told.prompt or told.finish is not None else []

    def _fail(self, error: ExoError) -> None:
        assert self.head is not None
        self._notify(self.head.fail(error))

    def _notify(self, notices: Sequence[Notice]) -> None:
        if not notices:
            return
        for notice in notices:
            if isinstance(notice, Failed) or notice.finish is not None:
                self._samplers.pop(notice.ticket, None)
                self._readers.pop(notice.ticket, None)
        self._outlet.notify(self._epoch, notices)


def read_or_fail(frame: StepFrame, stage: int, *, reports: bool = True) -> Step:
    """The step in `frame`; one that contradicts itself becomes a failure of `stage`."""
    try:
        return read_step(frame, reports=reports)
    except RingBroken as error:
        failure = Failure(stage, error.code or "ring_broken", error.message)
        return Step(read_epoch(frame.message.epoch), frame.message.step, failure=failure)


def failure_error(failure: Failure) -> ExoError:
    """A stage's failure as the error that callers see."""
    if failure.code == PeerUnavailable.code:
        return PeerUnavailable(failure.message)
    return RingBroken(f"stage {failure.stage}: {failure.message}", code=failure.code)


def _configure(stage: Stage, event: Configure) -> bool:
    """Run a Configure; its result or error goes to the waiting call."""
    try:
        stage.configure(
            event.epoch, event.stage, event.n_stages, event.wire_dtype, event.int8_rows, event.kept, event.kept_from
        )
    except ExoError as error:
        _refuse(event.done, error)
        return False
    _answer(event.done, None)
    return True


def _fence(stage: Stage, event: Fence) -> bool:
    """Run a Fence; what the stage holds, or the error, goes to the waiting call."""
    try:
        held = stage.fence(event.epoch)
    except ExoError as error:
        _refuse(event.done, error)
        return False
    _answer(event.done, Holdings(held, stage.logic.highest))
    return True


def _answer(waiting: Future[T], answer: T) -> None:
    """Nobody waits any more where the coordinator has gone, or died, while this stage was busy."""
    if waiting.set_running_or_notify_cancel():
        waiting.set_result(answer)


def _refuse(waiting: Future[T], error: ExoError) -> None:
    if waiting.set_running_or_notify_cancel():
        waiting.set_exception(error)
