"""Rows of prompts as int8 and back."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from exo_node.engine.base import Hidden
from exo_node.ring.int8_rows import pack
from exo_node.ring.messages import Epoch, Row, Step
from exo_node.ring.wire import pass_on, read_step, step_frame
from exo_node.transport.codec import StepFrame, payload_bytes
from exo_node.types import Dtype

HALF_STEP = {"float32": 2.0**-23, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # relative, of the dtype's own rounding
DTYPES: list[Dtype] = ["float32", "float16", "bfloat16"]


def stored(values: npt.NDArray[np.float32], dtype: Dtype) -> Hidden:
    """`values` cut to `dtype`."""
    if dtype == "bfloat16":
        array: npt.NDArray[Any] = (values.view(np.uint32) >> np.uint32(16)).astype("<u2")
    else:
        array = values.astype("<f4" if dtype == "float32" else "<f2")
    return Hidden(dtype, (values.shape[0], values.shape[1]), array.tobytes())


def floats(hidden: Hidden) -> npt.NDArray[np.float32]:
    if hidden.dtype == "bfloat16":
        bits = np.frombuffer(hidden.data, "<u2").astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).reshape(hidden.shape)
    kind = "<f4" if hidden.dtype == "float32" else "<f2"
    return np.frombuffer(hidden.data, kind).astype(np.float32).reshape(hidden.shape)


def travel(hidden: Hidden, rows: tuple[Row, ...]) -> tuple[Hidden, StepFrame]:
    """`hidden` as it comes out of a message, and the message."""
    wire = step_frame("i", Step(Epoch(1, ""), 1, rows=rows, hidden=hidden), int8=True).to_bytes()
    step = read_step(StepFrame.from_bytes(wire))
    assert step.hidden is not None and step.rows == rows
    return step.hidden, StepFrame.from_bytes(wire)


values = st.floats(-60000, 60000, width=32, allow_subnormal=True)


@pytest.mark.parametrize("dtype", DTYPES)
@given(array=arrays(np.float32, st.tuples(st.integers(2, 5), st.integers(1, 9)), elements=values))
def test_a_number_is_off_by_half_a_scale_at_most(dtype: Dtype, array: npt.NDArray[np.float32]) -> None:
    """Of its own vector: 1/254 of the largest, beside the dtype's own rounding, and never infinite."""
    given_ = stored(array, dtype)
    found, frame = travel(given_, (Row(1, 0, len(array), 1),))
    assert list(frame.message.int8_rows) == [0]
    assert found.dtype == dtype
    before, after = floats(given_).astype(np.float64), floats(found).astype(np.float64)
    largest = np.abs(before).max(axis=1, keepdims=True)
    # A vector of numbers that hardly are (below 127 x 2^-126) becomes zeros; float16 has its own smallest step.
    allowed = largest / 254 * (1 + 1e-5) + HALF_STEP[dtype] * largest + 1e-35 + (2.0**-25 if dtype == "float16" else 0)
    assert (np.abs(after - before) <= allowed).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_rows_that_prefill_are_packed(dtype: Dtype) -> None:
    """Decode rows, drafts and rows that are all outputs keep their bits, whichever rows lie between."""
    rows = (Row(1, 9, 1, 1), Row(2, 0, 4, 0), Row(3, 5, 3, 3), Row(4, 0, 2, 1), Row(5, 7, 1, 0))
    array = np.random.default_rng(1).standard_normal((11, 6)).astype(np.float32)
    given_ = stored(array, dtype)
    found, frame = travel(given_, rows)
    assert list(frame.message.int8_rows) == [1, 3]
    assert len(frame.pieces[0]) == payload_bytes(dtype, (11, 6), 6)
    before, after = floats(given_), floats(found)
    exact = [0, 5, 6, 7, 10]
    assert np.array_equal(before[exact], after[exact])
    others = [1, 2, 3, 4, 8, 9]
    assert (before[others] != after[others]).any()
    assert np.abs(before[others] - after[others]).max() < 0.03


def test_what_is_not_finite_travels_as_it_is() -> None:
    """A row with an infinity or a NaN is not packed, so that a stage's mistake does not look like numbers."""
    array = np.ones((6, 3), np.float32)
    array[1, 2], array[3, 0] = np.inf, np.nan
    found, frame = travel(stored(array, "float32"), (Row(1, 0, 2, 0), Row(2, 0, 2, 0), Row(3, 0, 2, 0)))
    assert list(frame.message.int8_rows) == [2]
    assert np.array_equal(floats(found), array, equal_nan=True)


def test_a_follower_packs_anew_or_not_at_all() -> None:
    """What came in packed goes on as this stage's own hop has it."""
    rows = (Row(1, 0, 3, 1),)
    array = np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)
    step = Step(Epoch(1, ""), 1, rows=rows, hidden=stored(array, "float32"))
    for int8 in (True, False):
        frame = StepFrame.from_bytes(step_frame("i", step, int8=True).to_bytes())
        out = StepFrame.from_bytes(pass_on(frame, step, int8=int8).to_bytes())
        assert list(out.message.int8_rows) == ([0] if int8 else [])
        found = read_step(out).hidden
        assert found is not None
        assert np.array_equal(floats(found), array) != int8


def test_an_empty_payload_has_nothing_to_pack() -> None:
    """Steps without rows and rows that are all decode are ordinary payloads."""
    assert pack(Hidden("float32", (0, 4), b""), ()) == ((), [])
    found, frame = travel(stored(np.ones((1, 4), np.float32), "bfloat16"), (Row(1, 0, 1, 1),))
    assert not frame.message.int8_rows and (floats(found) == 1).all()


def test_packing_takes_little_memory_beside_the_message() -> None:
    """A chunk of a prompt: beside the message itself one array of its numbers while they are rounded."""
    array = np.random.default_rng(3).standard_normal((256, 2048)).astype(np.float32)
    step = Step(Epoch(1, ""), 1, rows=(Row(1, 0, 256, 1),), hidden=Hidden("float32", (256, 2048), array.data.cast("B")))
    tracemalloc.start()
    try:
        wire = step_frame("i", step, int8=True).to_bytes()
        assert tracemalloc.get_traced_memory()[1] < 1.6 * array.nbytes
    finally:
        tracemalloc.stop()
    assert len(wire) < 0.26 * array.nbytes
