"""A stage with an engine: what goes on, what goes home as a failure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from exo_node.engine.base import Hidden
from exo_node.ring.kv_account import Pool
from exo_node.ring.messages import Epoch, Failure, Row, Step
from exo_node.ring.stage import Stage
from tests.unit.ring.fakering import CONTEXT, HIDDEN, oracle_logits, stages

EPOCH = Epoch(1, "c")


def chain(n_stages: int) -> list[Stage]:
    made = stages(n_stages, Pool(2, CONTEXT, 8))
    for index, stage in enumerate(made):
        stage.configure(EPOCH, index, n_stages, "float32")
    return made


def test_a_chain_computes_what_the_whole_model_does() -> None:
    """Three stages in a row give the logits of the whole model, for a prompt in two chunks of ragged rows."""
    ring = chain(3)
    steps: list[tuple[tuple[Row, ...], list[tuple[int, ...]]]] = [
        ((Row(1, 0, 3, 1, last_stage=2),), [(5, 6, 7)]),
        ((Row(1, 3, 2, 1, last_stage=2), Row(2, 0, 4, 2, last_stage=2)), [(8, 9), (1, 2, 3, 4)]),
    ]
    for number, (rows, tokens) in enumerate(steps):
        result = ring[0].run(Step(EPOCH, number + 1, (), rows), tokens)
        for stage in ring[1:]:
            result = stage.run(result.step)
    logits = ring[0].logits(result.step.hidden)
    assert np.array_equal(logits[0], oracle_logits((5, 6, 7, 8, 9)))
    assert np.array_equal(logits[1], oracle_logits((1, 2, 3)))
    assert np.array_equal(logits[2], oracle_logits((1, 2, 3, 4)))


def test_rows_for_other_stages_pass_unchanged() -> None:
    """A stage hands on what it does not compute, in row order: of a row that ends before it, the outputs."""
    last = chain(2)[1]
    first = chain(2)[0].run(Step(EPOCH, 1, (), (Row(2, 0, 2, 1, last_stage=1),)), [(3, 4)]).step.hidden
    assert first is not None
    foreign = np.arange(2 * HIDDEN, dtype="<f4").tobytes()
    both = Hidden("float32", (4, HIDDEN), foreign + bytes(first.data))
    rows = (Row(1, 0, 3, 2, first_stage=0, last_stage=0), Row(2, 0, 2, 1, last_stage=1))
    out = last.run(Step(EPOCH, 1, (), rows, both)).step.hidden
    assert out is not None
    assert out.shape == (3, HIDDEN)
    assert bytes(out.data)[: 2 * HIDDEN * 4] == foreign
    alone = chain(2)[1].run(Step(EPOCH, 1, (), (rows[1],), first)).step.hidden
    assert alone is not None
    assert bytes(out.data)[2 * HIDDEN * 4 :] == bytes(alone.data)


def test_an_engine_that_raises_ends_the_epoch_and_says_which_stage() -> None:
    """Whatever the engine raises goes home as a failure with the stage's number; later steps fail too."""
    second = chain(2)[1]
    bad = Hidden("float32", (1, HIDDEN), b"too short")
    out = second.run(Step(EPOCH, 1, (), (Row(1, 0, 1, 1, last_stage=1),), bad)).step
    assert out.failure is not None
    assert (out.failure.stage, out.failure.code) == (1, "engine_failed")
    assert out.hidden is None
    assert second.run(Step(EPOCH, 2)).step.failure is not None


def test_a_payload_of_the_wrong_size_never_reaches_the_engine() -> None:
    """Hidden vectors and tokens must agree."""
    second = chain(2)[1]
    short = Hidden("float32", (1, HIDDEN), bytes(4 * HIDDEN))
    failure = second.run(Step(EPOCH, 1, (), (Row(1, 0, 2, 1, last_stage=1),), short)).step.failure
    assert failure is not None
    assert "1 hidden vectors for 2 tokens" in failure.message


def test_the_failure_of_another_stage_is_passed_on() -> None:
    """A step that failed before goes home as it is, and this stage's epoch is over as well."""
    second = chain(2)[1]
    failed = replace(Step(EPOCH, 1), failure=Failure(0, "engine_failed", "no memory"))
    assert second.run(failed).step == failed
    assert second.logic.broken == "no memory"
