"""Steps as protobuf messages and back: the one place that knows both."""

from __future__ import annotations

from typing import Any

from exo_node.engine.base import Hidden
from exo_node.errors import InvalidRequest, RingBroken
from exo_node.ring.head import Head
from exo_node.ring.int8_rows import pack, unpack
from exo_node.ring.messages import Copy, Drop, Epoch, Failure, Op, Rename, Report, Row, Step
from exo_node.ring.sequences import Delta, Job, Pooling, Priority, TokenChoice
from exo_node.transport.codec import StepFrame, put_payload, take_payload
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import Grammar, SamplingParams

MAX_US = 2**32 - 1  # the fields are uint32, 71 minutes: a machine that slept in a step must not fail over its figures


def epoch_message(epoch: Epoch) -> ring_pb2.Epoch:
    return ring_pb2.Epoch(counter=epoch.counter, coordinator=epoch.coordinator)


def read_epoch(message: ring_pb2.Epoch) -> Epoch:
    return Epoch(message.counter, message.coordinator)


def step_frame(instance_id: str, step: Step, *, int8: bool = False) -> StepFrame:
    """`step` as it travels, with rows packed where `int8` and they may be (`int8_rows.py`).

    The caller appends its own report afterwards, so that it can hold this call's cost. The payload is still the
    engine's memory: turn the frame into bytes before the engine runs again.
    """
    message = ring_pb2.StepMessage(instance_id=instance_id, step=step.number)
    message.epoch.counter = step.epoch.counter
    message.epoch.coordinator = step.epoch.coordinator
    for op in step.ops:
        match op:
            case Drop(sequence):
                message.ops.add(drop=sequence)
            case Copy(target, source, length):
                message.ops.add().copy.CopyFrom(ring_pb2.Copy(target=target, source=source, length=length))
            case Rename(target, source, length):
                message.ops.add().rename.CopyFrom(ring_pb2.Rename(target=target, source=source, length=length))
    for row in step.rows:
        message.rows.add(
            sequence=row.sequence,
            position=row.position,
            length=row.length,
            n_outputs=row.n_outputs,
            rollback=row.rollback,
            first_stage=row.first_stage,
            last_stage=row.last_stage,
        )
    for report in step.reports:
        add_report(message, report)
    frame = StepFrame(message)
    _put_result(frame, step, int8)
    return frame


def pass_on(frame: StepFrame, step: Step, *, int8: bool = False) -> StepFrame:
    """A follower's outgoing step: the one that came in, with its payload replaced.

    Ops, rows and the reports of the stages before stay as they are, which saves a third of the codec's time.
    """
    message = frame.message
    for name in ("padding", "dtype", "shape", "int8_rows"):
        message.ClearField(name)
    frame.pieces = ()
    _put_result(frame, step, int8)
    return frame


def _put_result(frame: StepFrame, step: Step, int8: bool) -> None:
    hidden = step.hidden
    if hidden is not None:
        put_payload(frame, hidden.dtype, hidden.shape, hidden.data)
        # What is only passed on may be short of vectors; it comes in a replay, once.
        if int8 and hidden.shape[0] == sum(row.length for row in step.rows):
            packed, pieces = pack(hidden, step.rows)
            if packed:
                frame.message.int8_rows.extend(packed)
                frame.pieces = pieces
    if step.failure is not None:
        _put_failure(frame.message, step.failure)


def _put_failure(message: ring_pb2.StepMessage, failure: Failure) -> None:
    message.error.CopyFrom(ring_pb2.StageError(stage=failure.stage, code=failure.code, message=failure.message))


def add_report(message: ring_pb2.StepMessage | ring_pb2.HopSample, report: Report) -> None:
    message.reports.add(
        stage=report.stage,
        queue_us=min(report.queue_us, MAX_US),
        engine_us=min(report.engine_us, MAX_US),
        codec_us=min(report.codec_us, MAX_US),
        sequences=report.sequences,
        cached_tokens=report.cached_tokens,
    )


def read_step(frame: StepFrame, *, reports: bool = True) -> Step:
    """The step in `frame`, with its `reports` or without. Raises `RingBroken` where its parts contradict each other.

    The payload's data is what came in, uncopied, and stays valid when the frame changes; but packed rows are unpacked.
    """
    message = frame.message
    payload = take_payload(frame)
    failure = None
    if message.HasField("error"):
        failure = Failure(message.error.stage, message.error.code, message.error.message)
    rows = tuple(
        Row(row.sequence, row.position, row.length, row.n_outputs, row.rollback, row.first_stage, row.last_stage)
        for row in message.rows
    )
    hidden = None
    if payload is not None:
        hidden = unpack(payload, rows) if payload.int8_rows else Hidden(payload.dtype, payload.shape, payload.data)
    return Step(
        read_epoch(message.epoch),
        message.step,
        tuple(_read_op(op) for op in message.ops),
        rows,
        hidden,
        tuple(
            Report(one.stage, one.queue_us, one.engine_us, one.codec_us, one.sequences, one.cached_tokens)
            for one in message.reports
        )
        if reports
        else (),
        failure,
    )


def _read_op(op: ring_pb2.Op) -> Op:
    match op.WhichOneof("op"):
        case "drop":
            return Drop(op.drop)
        case "copy":
            return Copy(op.copy.target, op.copy.source, op.copy.length)
        case "rename":
            return Rename(op.rename.target, op.rename.source, op.rename.length)
        case _:
            raise RingBroken("a step carries an operation that this version does not know: update this node")


def read_job(request: ring_pb2.GenerateRequest, now: float) -> Job:
    """The job in a `GenerateRequest`; `now` (seconds) turns its remaining time into a deadline."""
    sampling = request.sampling
    return Job(
        request_id=request.request_id,
        prompt=tuple(request.prompt_ids),
        generated=tuple(request.generated_ids),
        max_tokens=request.max_tokens,
        stop_ids=frozenset(request.stop_ids),
        attempt=request.attempt,
        deadline=now + request.timeout_ms / 1000 if request.timeout_ms else None,
        prompt_logprobs=request.prompt_logprobs if request.HasField("prompt_logprobs") else None,
        pooling=_read_pooling(request.pooling) if request.HasField("pooling") else None,
        grammar=_read_grammar(request.grammar) if request.HasField("grammar") else None,
        begun=request.grammar.begun,
        client=request.client,
        priority=_read_priority(request.priority),
        sequence=request.sequence,
        sampling=SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            repetition_penalty=sampling.repetition_penalty,
            logit_bias=dict(sampling.logit_bias),
            top_logprobs=sampling.top_logprobs if sampling.HasField("top_logprobs") else None,
            seed=sampling.seed,
        ),
    )


def _read_grammar(message: ring_pb2.Grammar) -> Grammar:
    kind: Any = message.kind  # one that this version does not know is refused where it is compiled
    return Grammar(kind, message.text, message.field)


def _read_priority(text: str) -> Priority:
    match text:
        case "high" | "normal" | "low":
            return text
        case "":
            return "normal"
        case _:
            raise InvalidRequest(f"no priority {text!r}: high, normal or low", param="priority")


def _read_pooling(message: ring_pb2.Pooling) -> Pooling:
    match message.mode:
        case "mean" | "last" as mode:
            return Pooling(mode, message.dimensions)
        case _:
            raise InvalidRequest(f"no pooling {message.mode!r}: mean or last", param="pooling")


def scheduling_message(head: Head) -> ring_pb2.Scheduling:
    """What the scheduler has done and holds, for Stats."""
    account, prefixes, counts = head.residents.account, head.residents.counts, head.counts
    return ring_pb2.Scheduling(
        kv_tokens=account.kv_tokens,
        kv_tokens_used=account.charged_tokens,
        prompt_tokens=prefixes.asked,
        prefix_hit_tokens=prefixes.found,
        evictions=prefixes.evicted,
        preemptions=counts.preempted,
        drafted_tokens=counts.drafted,
        accepted_tokens=counts.accepted,
        micro_batches=head.micro_batches,
    )


def delta_message(epoch: Epoch, deltas: list[Delta]) -> ring_pb2.GenerateDelta:
    """Consecutive deltas of one generation as one message: a slow reader gets several tokens at once."""
    first, last = deltas[0], deltas[-1]
    message = ring_pb2.GenerateDelta(index=first.index, finish_reason=last.finish or "", embedding=last.vector)
    message.epoch.counter = epoch.counter
    message.epoch.coordinator = epoch.coordinator
    for delta in deltas:
        if delta.prefill_us or delta.queue_us:
            message.prefill_us, message.queue_us = delta.prefill_us, delta.queue_us
            message.cached_tokens, message.replayed_tokens = delta.cached, delta.replayed
        message.sequence = delta.sequence or message.sequence
        for told in delta.prompt:
            _put_logprob(message.prompt_logprobs.add(), told)
        choice = delta.choice
        if choice is None:
            continue
        message.ids.append(choice.token)
        if choice.logprob is not None:
            _put_logprob(message.logprobs.add(), choice)
    return message


def _put_logprob(entry: ring_pb2.TokenLogprobs, choice: TokenChoice) -> None:
    assert choice.logprob is not None
    entry.logprob = choice.logprob
    entry.top_ids.extend(token for token, _ in choice.top)
    entry.top_logprobs.extend(logprob for _, logprob in choice.top)
