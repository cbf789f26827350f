"""`RingService` of one runner: the network's side. Reads never wait for the engine: each step goes into its queue."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from exo_node.errors import ExoError, InvalidRequest, NotFound, PeerUnavailable, RingBroken, Unauthorized
from exo_node.ring.configuring import check_configure, ring_setup
from exo_node.ring.events import Cancel, Configure, Event, Fence, Holdings, Lost, StepIn, Submit, Worker
from exo_node.ring.grammars import Grammars
from exo_node.ring.keeping import kept_message, read_kept
from exo_node.ring.messages import NO_EPOCH, Epoch, Failure, Step
from exo_node.ring.progress import Awaited
from exo_node.ring.runner_config import RunnerConfig
from exo_node.ring.runner_load import LoadedShard
from exo_node.ring.sampler import Constraint
from exo_node.ring.sequences import Delta, Failed, Job, Notice
from exo_node.ring.shard import check_newer
from exo_node.ring.streams import Mailbox, Outbound
from exo_node.ring.wire import (
    MAX_US,
    add_report,
    delta_message,
    epoch_message,
    read_epoch,
    read_job,
    scheduling_message,
    step_frame,
)
from exo_node.ring.workers import HeadWorker, failure_error
from exo_node.transport.client import SILENCE_S
from exo_node.transport.codec import StepFrame, parse_dtype
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.transport.generated.exo.v1.ring_pb2_grpc import RingServiceServicer
from exo_node.transport.ring_client import EPOCH_KEY, TOKEN_KEY
from exo_node.transport.tls import TlsIdentity, runner_name

log = logging.getLogger("exo.runner")

# A neighbour may be told its epoch before us and send at once: its stream is read only when ours is here.
EPOCH_WAIT_S = 10.0


@dataclass(slots=True, eq=False)
class _Inbound:
    """The open stream from the stage before. `error` is why we end it, if we do."""

    epoch: Epoch
    task: asyncio.Task[Any]
    error: ExoError | None = None

    def end(self, error: ExoError) -> None:
        self.error = error
        self.task.cancel()


class RingServicer(RingServiceServicer):
    """Serves one shard. `post` hands an event to the engine thread; `worker` is only looked at (for Stats)."""

    def __init__(
        self,
        config: RunnerConfig,
        loaded: LoadedShard,
        worker: Worker,
        post: Callable[[Event], None],
        tls: TlsIdentity,
    ) -> None:
        self._config = config
        self._tls = tls
        self._loaded = loaded
        self._worker = worker
        self._post = post
        self._epoch = NO_EPOCH
        self._joined = NO_EPOCH  # the epoch of the last Configure: steps of another are not taken
        self._stage = config.stage
        self._n_stages = 1
        self._silence_s = SILENCE_S
        self._wire = ""  # how hidden states leave for the next stage, for Stats
        self._configured = asyncio.Condition()
        self._inbound: _Inbound | None = None
        self._outbound: Outbound | None = None
        self._mailboxes: dict[int, Mailbox] = {}
        self._tickets = itertools.count(1)
        self._process = psutil.Process()
        self._grammars = Grammars(Path(config.model_path), loaded.vocab_size)

    # ---- the engine thread's output, on the loop thread ---------------------------------------------------------

    def send(self, epoch: Epoch, step: bytes) -> None:
        """Pass a step on, unless its epoch is over."""
        outbound = self._outbound
        if outbound is not None and epoch == outbound.epoch:
            outbound.put(step)

    def deliver(self, notices: Sequence[Notice]) -> None:
        """Hand notices to their callers; a caller that has gone has no mailbox."""
        for notice in notices:
            mailbox = self._mailboxes.get(notice.ticket)
            if mailbox is not None:
                mailbox.put(notice)

    # ---- for the watch over progress (liveness.py) ---------------------------------------------------------------

    def silence(self) -> float:
        """See `liveness.Watched`, as the next three."""
        return self._silence_s

    def awaited(self) -> Awaited | None:
        head = self._worker.head if isinstance(self._worker, HeadWorker) else None
        return None if head is None or self._n_stages == 1 else head.awaited()

    def ring_hangs(self, error: RingBroken) -> None:
        self._lost(self._epoch, 1, error)

    def engine_hangs(self, seconds: float) -> RingBroken:
        hangs = f"its engine hangs: it has been at one step for {seconds:.1f} s"
        error = RingBroken(f"stage {self._stage}: {hangs}", code="engine_hangs")
        self._fail_callers(self._epoch, error)
        if self._outbound is not None and not self._config.is_head:
            failure = Failure(self._stage, "engine_hangs", hangs)
            step = Step(self._epoch, self._worker.stage.logic.steps + 1, failure=failure)
            self._outbound.put(step_frame(self._config.instance_id, step).to_bytes())
        return error

    # ---- calls --------------------------------------------------------------------------------------------------

    async def Fence(self, request: ring_pb2.FenceRequest, context: Any) -> ring_pb2.FenceResponse:
        self._authorize(context)
        self._check_instance(request.instance_id)
        epoch = read_epoch(request.epoch)
        check_newer(epoch, self._epoch)
        self._epoch = epoch
        done: Future[Holdings] = Future()
        old = self._cut_off(epoch)
        # At once, whatever the engine is busy with.
        error = RingBroken(f"the ring goes on as epoch {epoch}", code="stale_epoch")
        for ticket, mailbox in self._mailboxes.items():
            mailbox.put(Failed(ticket, error))
        self._post(Fence(epoch, done))
        if old is not None:
            await old.close()
        async with self._configured:
            self._configured.notify_all()
        holdings = await asyncio.wrap_future(done)
        return ring_pb2.FenceResponse(held=[kept_message(one) for one in holdings.held], highest=holdings.highest)

    async def Configure(self, request: ring_pb2.ConfigureRequest, context: Any) -> ring_pb2.ConfigureResponse:
        self._authorize(context)
        epoch = self._check(request)
        # From here on nothing of an older epoch gets in or out.
        self._epoch = self._joined = epoch
        self._stage, self._n_stages = request.stage, request.n_stages
        self._silence_s = request.silence_ms / 1000 or SILENCE_S  # an older coordinator says nothing of it
        old = self._cut_off(epoch)
        if request.n_stages > 1:
            self._outbound = Outbound(
                epoch=epoch,
                next_stage=(request.stage + 1) % request.n_stages,
                address=request.next_address,
                token=self._config.token,
                tls=self._tls,
                name=runner_name(self._config.instance_id),
                silence_s=self._silence_s,
                on_lost=self._downstream_lost,
            )
        done: Future[None] = Future()
        loaded = self._loaded
        setup = (
            ring_setup(self._config, request, loaded.vocab_size, loaded.hidden_size) if self._config.is_head else None
        )
        if request.n_stages > 1:
            self._wire = request.wire_dtype + (", prompts as int8" if request.int8_rows else "")
        dtype = parse_dtype(request.wire_dtype)
        kept, kept_from = read_kept(request.kept), request.kept_from
        self._post(
            Configure(epoch, request.stage, request.n_stages, dtype, setup, done, request.int8_rows, kept, kept_from)
        )
        if old is not None:
            await old.close()
        await asyncio.wrap_future(done)
        async with self._configured:
            self._configured.notify_all()
        return ring_pb2.ConfigureResponse(epoch=epoch_message(epoch))

    async def Steps(self, request_iterator: AsyncIterator[StepFrame], context: Any) -> ring_pb2.StepsSummary:
        self._authorize(context)
        inbound = await self._open_inbound(context)
        steps = 0
        try:
            async for frame in request_iterator:
                arrived_ns = time.perf_counter_ns()
                message = frame.message
                if message.instance_id != self._config.instance_id or read_epoch(message.epoch) != inbound.epoch:
                    raise RingBroken(f"step {message.step} is of another instance or epoch than its stream")
                steps += 1
                if self._config.is_head and message.HasField("error"):
                    failure = Failure(message.error.stage, message.error.code, message.error.message)
                    self._fail_callers(inbound.epoch, failure_error(failure))
                self._post(StepIn(frame, arrived_ns))
        except asyncio.CancelledError:
            if inbound.error is None:
                raise
            inbound.task.uncancel()
            raise inbound.error from None
        finally:
            if self._inbound is inbound:
                self._inbound = None
                self._upstream_lost(inbound.epoch)
        return ring_pb2.StepsSummary(steps=steps)

    async def Generate(
        self, request: ring_pb2.GenerateRequest, context: Any
    ) -> AsyncGenerator[ring_pb2.GenerateDelta, None]:
        self._authorize(context)
        self._check_instance(request.instance_id)
        if not self._config.is_head:
            raise InvalidRequest(f"stage {self._stage} is not the head: send requests to stage 0", code="not_head")
        if self._epoch == NO_EPOCH:
            raise RingBroken("this runner is in no ring yet: it waits for its Configure", code="not_configured")
        job, constraint = await self._constrained(read_job(request, time.monotonic()))
        ticket = next(self._tickets)
        mailbox = self._mailboxes[ticket] = Mailbox(self._epoch)
        self._post(Submit(ticket, job, constraint))
        finished = False
        try:
            while not finished:
                deltas: list[Delta] = []
                failed: Failed | None = None
                for notice in await mailbox.take():
                    if isinstance(notice, Failed):
                        failed = notice
                        break  # what a step that a Fence found running gave comes later still
                    deltas.append(notice)
                finished = failed is not None or deltas[-1].finish is not None
                if deltas:
                    yield delta_message(mailbox.epoch, deltas)
                if failed is not None:
                    raise failed.error
        finally:
            del self._mailboxes[ticket]
            if not finished:
                self._post(Cancel(ticket))

    async def Stats(self, request: ring_pb2.StatsRequest, context: Any) -> ring_pb2.RunnerStats:
        self._authorize(context)
        logic = self._worker.stage.logic
        stats = ring_pb2.RunnerStats(
            epoch=epoch_message(self._epoch),
            stage=self._stage,
            slots=self._config.slots,
            slots_used=logic.sequences,
            cached_tokens=logic.cached_tokens,
            steps=logic.steps,
            weight_bytes=self._loaded.report.weight_bytes,
            kv_bytes=self._loaded.report.kv_bytes,
            kv_bytes_used=self._worker.stage.kv_bytes(),
            computed_tokens=self._worker.stage.computed_tokens,
            rss_bytes=self._process.memory_info().rss,
            info={**self._loaded.info, "wire": self._wire} if self._wire else dict(self._loaded.info),
        )
        if isinstance(self._worker, HeadWorker):
            head = self._worker.head
            if head is not None:
                stats.waiting, stats.running, stats.tokens = head.waiting, head.running, head.counts.tokens
                stats.scheduling.CopyFrom(scheduling_message(head))
            for hop in self._worker.hops.copy():
                sample = stats.hops.add(step=hop.step, total_us=min(hop.total_us, MAX_US))
                for report in hop.reports:
                    add_report(sample, report)
        return stats

    async def close(self) -> None:
        """End the stream to the next stage, and what reads grammars."""
        await self._grammars.close()
        if self._outbound is not None:
            await self._outbound.close()

    # ---- inside -------------------------------------------------------------------------------------------------

    async def _constrained(self, job: Job) -> tuple[Job, Constraint | None]:
        """The job with its grammar compiled and led over what is there of the answer. Raises `InvalidRequest`."""
        if job.grammar is None:
            return job, None
        answer = (*job.prompt[len(job.prompt) - job.begun :], *job.generated)
        constraint = await self._grammars.constraint(job.grammar, answer)
        return replace(job, complete=constraint is not None and constraint.ended), constraint

    def _authorize(self, context: Any) -> None:
        """Only members of the instance know its token; compared in constant time."""
        offered = next((value for key, value in context.invocation_metadata() or () if key == TOKEN_KEY), "")
        if not hmac.compare_digest(str(offered).encode(), self._config.token.encode()):
            raise Unauthorized("the instance token is missing or wrong", code="wrong_instance_token")

    def _check_instance(self, instance_id: str) -> None:
        if instance_id != self._config.instance_id:
            raise NotFound(f"this runner serves instance {self._config.instance_id}, not {instance_id}")

    def _check(self, request: ring_pb2.ConfigureRequest) -> Epoch:
        self._check_instance(request.instance_id)
        epoch = read_epoch(request.epoch)
        if epoch != self._epoch or epoch == self._joined:  # else it is the one that a Fence told of
            check_newer(epoch, self._epoch)
        check_configure(self._config, request)
        return epoch

    def _cut_off(self, epoch: Epoch) -> Outbound | None:
        """End the stream from the stage before, and have the engine begin nothing older than `epoch`; the stream to the
        next stage is the caller's to close."""
        self._worker.stage.cutoff = epoch
        if self._inbound is not None:
            self._inbound.end(RingBroken(f"the ring was set up anew as epoch {epoch}", code="stale_epoch"))
            self._inbound = None
        old, self._outbound = self._outbound, None
        return old

    async def _open_inbound(self, context: Any) -> _Inbound:
        """Take the stream of the current epoch; there is one. A newer epoch than ours waits for our Configure."""
        text = str(next((value for key, value in context.invocation_metadata() or () if key == EPOCH_KEY), ""))
        counter, slash, coordinator = text.partition("/")
        if not slash or not counter.isdecimal():
            raise RingBroken(f"a step stream without a valid {EPOCH_KEY} in its metadata")
        epoch = Epoch(int(counter), coordinator)
        if epoch >= self._epoch and epoch != self._joined:
            try:
                async with asyncio.timeout(EPOCH_WAIT_S), self._configured:
                    await self._configured.wait_for(lambda: self._epoch > epoch or self._joined == epoch)
            except TimeoutError:
                pass
        if epoch != self._epoch or epoch != self._joined:
            raise RingBroken(f"a step stream of epoch {epoch}; this runner is at {self._epoch}", code="stale_epoch")
        if self._inbound is not None:
            raise RingBroken(f"epoch {epoch} has a step stream already")
        task = asyncio.current_task()
        assert task is not None
        self._inbound = _Inbound(epoch, task)
        return self._inbound

    def _upstream_lost(self, epoch: Epoch) -> None:
        stage = (self._stage - 1) % self._n_stages
        error = PeerUnavailable(f"stage {stage} of the ring is gone: its stream ended")
        self._lost(epoch, stage, error)

    def _downstream_lost(self, epoch: Epoch, stage: int, error: ExoError) -> None:
        """The next stage is gone: the head learns it from here, a follower tells the stage before."""
        if epoch != self._epoch:
            return
        self._lost(epoch, stage, error)
        if not self._config.is_head and self._inbound is not None:
            self._inbound.end(error)
            self._inbound = None

    def _lost(self, epoch: Epoch, stage: int, error: ExoError) -> None:
        """The epoch is over. Callers hear it at once: the engine may be at a long step, and learns it after that."""
        log.warning("epoch %s: %s", epoch, error.message)
        self._fail_callers(epoch, error)
        self._post(Lost(epoch, stage, error))

    def _fail_callers(self, epoch: Epoch, error: ExoError) -> None:
        self.deliver([Failed(ticket, error) for ticket, one in self._mailboxes.items() if one.epoch == epoch])
