"""Steps and their hidden states as bytes."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.errors import RingBroken
from exo_node.transport.codec import ALIGNMENT, Payload, StepFrame, parse_dtype, put_payload, take_payload
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import Dtype


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
@pytest.mark.parametrize("view", [False, True])
def test_bytes_travel_unchanged(dtype: Dtype, size: int, view: bool) -> None:
    """Every dtype as raw little-endian bits, from bytes or a view of any item size."""
    data = bytes(range(6 * size))
    frame = StepFrame(ring_pb2.StepMessage(step=7))
    put_payload(frame, dtype, (2, 3), memoryview(data).cast("H") if view else data)
    received = StepFrame.from_bytes(frame.to_bytes())
    assert take_payload(received) == Payload(dtype, (2, 3), data)
    assert received.message.step == 7


def test_a_step_may_carry_no_payload_or_an_empty_one() -> None:
    """No payload (no rows) and one of no vectors (no outputs) are two things."""
    frame = StepFrame(ring_pb2.StepMessage())
    assert take_payload(StepFrame.from_bytes(frame.to_bytes())) is None
    put_payload(frame, "float16", (0, 8), b"")
    assert take_payload(StepFrame.from_bytes(frame.to_bytes())) == Payload("float16", (0, 8), b"")


def test_a_wrong_size_is_our_bug_when_sending_and_theirs_when_receiving() -> None:
    """The sender's engine is ours; what arrives breaks the ring."""
    message = ring_pb2.StepMessage(step=3)
    with pytest.raises(ValueError, match="takes 16 bytes"):
        put_payload(StepFrame(message), "float32", (2, 2), b"1234")
    message.dtype = "float32"
    message.shape.extend((2, 2))
    with pytest.raises(RingBroken, match="carries 4 bytes"):
        take_payload(StepFrame(message, (b"1234",)))
    message.shape.append(1)
    with pytest.raises(RingBroken, match="3 dimensions"):
        take_payload(StepFrame(message, (b"1234",)))


@pytest.mark.parametrize("packed", [[1], [0, 0], [1, 0]])
def test_packed_rows_must_be_rows_in_order(packed: list[int]) -> None:
    """An index past the rows, twice or out of order breaks the ring."""
    message = ring_pb2.StepMessage(dtype="float32", shape=(2, 4), int8_rows=packed, rows=[ring_pb2.Row(length=2)])
    with pytest.raises(RingBroken, match="packs rows"):
        take_payload(StepFrame(message, (bytes(16),)))


def test_packed_vectors_count_by_their_own_size() -> None:
    """A scale and a byte for each number; more packed vectors than the shape has break the ring."""
    rows = [ring_pb2.Row(length=1), ring_pb2.Row(length=2)]
    message = ring_pb2.StepMessage(dtype="float32", shape=(3, 4), int8_rows=[1], rows=rows)
    data = bytes(2 * (4 + 4) + 4 * 4)
    assert take_payload(StepFrame(message, (data,))) == Payload("float32", (3, 4), data, (1,))
    with pytest.raises(RingBroken, match="with 2 as int8 but carries 31 bytes"):
        take_payload(StepFrame(message, (data[1:],)))
    message.shape[0] = 1
    with pytest.raises(RingBroken, match="with 2 as int8"):
        take_payload(StepFrame(message, (b"",)))


@given(size=st.integers(0, 40_000), pieces=st.integers(1, 3), step=st.integers(0, 2**64 - 1))
def test_a_frame_is_an_ordinary_message(size: int, pieces: int, step: int) -> None:
    """Protobuf reads what we write, we read what protobuf writes, and our payload lies on a multiple of 16 bytes."""
    data = np.random.default_rng(size).bytes(size)
    cuts = [size * one // pieces for one in range(pieces + 1)]
    parts = [memoryview(data)[begin:end] for begin, end in itertools.pairwise(cuts)]
    message = ring_pb2.StepMessage(step=step, instance_id="i", rows=[ring_pb2.Row(sequence=1, length=3)])
    written = StepFrame(message, parts).to_bytes()
    assert (written.find(data) % ALIGNMENT == 0) or size < 20  # a short one may occur elsewhere too
    message.data = data
    parsed = ring_pb2.StepMessage.FromString(written)
    parsed.ClearField("padding")
    assert parsed == message
    for wire in (written, message.SerializeToString()):
        frame = StepFrame.from_bytes(wire)
        assert (b"".join(frame.pieces), frame.message.step, len(frame.message.rows)) == (data, step, 1)
        assert not frame.message.data


@given(st.binary(max_size=40))
def test_what_is_no_message_is_refused_as_protobuf_would(data: bytes) -> None:
    """Any bytes are either read as protobuf reads them or break the ring."""
    for wire in (data, b"\x5a\x02ab\x42" + data):
        try:
            expected: ring_pb2.StepMessage | None = ring_pb2.StepMessage.FromString(wire)
        except Exception:  # whatever protobuf raises
            expected = None
        try:
            found: StepFrame | None = StepFrame.from_bytes(wire)
        except RingBroken:
            found = None
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert b"".join(found.pieces) == expected.data


def test_the_payload_is_copied_once_on_its_way_out_and_never_on_its_way_in() -> None:
    """Memory taken while 8 MiB become a message and are read again: one message, and no second copy of anything."""
    size = 8 * 2**20
    array = np.zeros((1024, size // 4096), np.float32)
    tracemalloc.start()
    try:
        frame = StepFrame(ring_pb2.StepMessage(step=1))
        put_payload(frame, "float32", array.shape, array.data.cast("B"))
        wire = frame.to_bytes()
        assert tracemalloc.get_traced_memory()[1] < 1.01 * size
        tracemalloc.reset_peak()
        payload = take_payload(StepFrame.from_bytes(wire))
        assert payload is not None
        received = np.frombuffer(payload.data, np.float32).reshape(payload.shape)
        assert tracemalloc.get_traced_memory()[1] < 1.01 * size  # the message itself
    finally:
        tracemalloc.stop()
    assert received.flags.aligned and np.array_equal(received, array)


def test_an_unknown_dtype_is_named() -> None:
    """A newer peer's dtype is refused, never guessed."""
    with pytest.raises(RingBroken, match="float8"):
        parse_dtype("float8")
