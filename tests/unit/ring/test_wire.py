"""Steps survive the way through protobuf unchanged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exo_node.engine.base import Hidden
from exo_node.errors import RingBroken
from exo_node.ring.messages import Copy, Drop, Epoch, Failure, Rename, Report, Row, Step
from exo_node.ring.sequences import Delta, TokenChoice
from exo_node.ring.wire import (
    add_report,
    delta_message,
    pass_on,
    read_job,
    read_step,
    step_frame,
)
from exo_node.transport.codec import StepFrame
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import Grammar, SamplingParams

STEP = Step(
    Epoch(3, "node"),
    17,
    (Drop(4), Copy(9, 5, 12), Rename(10, 5, 3)),
    (Row(5, 100, 1, 1, False, 0, 2), Row(9, 12, 2, 0, True, 1, 1)),
    Hidden("bfloat16", (3, 2), bytes(range(12))),
    (Report(0, 1, 2, 3, 4, 5), Report(1, 6, 7, 8, 9, 10)),
)


@pytest.mark.parametrize("step", [STEP, Step(Epoch(1, ""), 1), STEP.failed(Failure(2, "engine_failed", "why"))])
def test_a_step_survives_the_wire(step: Step) -> None:
    """Ops, rows, payload, reports and failure, byte for byte."""
    assert read_step(StepFrame.from_bytes(step_frame("i", step).to_bytes())) == step


def test_a_follower_passes_a_message_on_with_another_payload() -> None:
    """Payload and failure are the new ones, everything else is what came in."""
    after = replace(STEP, hidden=Hidden("float16", (1, 2), b"abcd"))
    assert read_step(pass_on(step_frame("i", STEP), after)) == after
    failed = STEP.failed(Failure(2, "engine_failed", "why"))
    assert read_step(pass_on(step_frame("i", STEP), failed)) == failed
    assert read_step(step_frame("i", STEP), reports=False) == replace(STEP, reports=())


def test_a_step_that_took_hours_is_still_reported() -> None:
    """Times over the field's range are cut, not an error."""
    message = step_frame("i", Step(Epoch(1, ""), 1)).message
    add_report(message, Report(0, 2**40, 1, 2**33, 0, 0))
    assert (message.reports[0].queue_us, message.reports[0].engine_us) == (2**32 - 1, 1)


def test_an_unknown_op_breaks_the_ring() -> None:
    """A newer peer's operation is never skipped."""
    frame = step_frame("i", Step(Epoch(1, ""), 1))
    frame.message.ops.add()
    with pytest.raises(RingBroken, match="does not know"):
        read_step(frame)


def test_deltas_of_a_slow_reader_become_one_message() -> None:
    """Ids and logprobs in order, the first index and times, the last reason."""
    deltas = [
        Delta(1, 4, TokenChoice(7, -0.5, ((7, -0.5), (8, -1.0))), None, 10, 20),
        Delta(1, 5, TokenChoice(9, -0.25), "stop"),
    ]
    message = delta_message(Epoch(1, "a"), deltas)
    assert (message.index, list(message.ids), message.finish_reason) == (4, [7, 9], "stop")
    assert (message.queue_us, message.prefill_us) == (10, 20)
    assert [entry.logprob for entry in message.logprobs] == [-0.5, -0.25]
    assert list(message.logprobs[0].top_ids) == [7, 8]


def test_a_request_becomes_a_job() -> None:
    """Remaining milliseconds become a deadline; an absent top_logprobs is none, 0 is the chosen token's."""
    request = ring_pb2.GenerateRequest(
        request_id="r",
        prompt_ids=[1, 2],
        generated_ids=[3],
        max_tokens=5,
        stop_ids=[2],
        timeout_ms=1500,
        attempt=2,
        sampling=ring_pb2.Sampling(
            temperature=0.5, top_p=0.75, top_k=4, repetition_penalty=1.5, logit_bias={3: -1.0}, seed=2**64 - 1
        ),
    )
    job = read_job(request, 10.0)
    assert (job.prompt, job.generated, job.stop_ids, job.deadline) == ((1, 2), (3,), frozenset({2}), 11.5)
    assert job.sampling == SamplingParams(
        temperature=0.5, top_p=0.75, top_k=4, repetition_penalty=1.5, logit_bias={3: -1.0}, seed=2**64 - 1
    )
    assert (job.grammar, job.begun) == (None, 0)
    request.grammar.CopyFrom(ring_pb2.Grammar(kind="regex", text="a", field="f", begun=1))
    assert (read_job(request, 10.0).grammar, read_job(request, 10.0).begun) == (Grammar("regex", "a", "f"), 1)
    request.sampling.top_logprobs = 0
    request.timeout_ms = 0
    assert read_job(request, 10.0).sampling.top_logprobs == 0
    assert read_job(request, 10.0).deadline is None
