"""Hidden states in messages."""

from __future__ import annotations

import pytest

from exo_node.errors import RingBroken
from exo_node.transport.codec import Payload, parse_dtype, put_payload, take_payload
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import Dtype


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
@pytest.mark.parametrize("view", [False, True])
def test_bytes_travel_unchanged(dtype: Dtype, size: int, view: bool) -> None:
    """Every dtype as raw little-endian bits, from bytes or a view of any item size."""
    data = bytes(range(6 * size))
    message = ring_pb2.StepMessage()
    put_payload(message, dtype, (2, 3), memoryview(data).cast("H") if view else data)
    received = ring_pb2.StepMessage.FromString(message.SerializeToString())
    assert take_payload(received) == Payload(dtype, (2, 3), data)


def test_a_step_may_carry_no_payload_or_an_empty_one() -> None:
    """No payload (no rows) and one of no vectors (no outputs) are two things."""
    message = ring_pb2.StepMessage()
    assert take_payload(message) is None
    put_payload(message, "float16", (0, 8), b"")
    assert take_payload(message) == Payload("float16", (0, 8), b"")


def test_a_wrong_size_is_our_bug_when_sending_and_theirs_when_receiving() -> None:
    """The sender's engine is ours; what arrives breaks the ring."""
    message = ring_pb2.StepMessage(step=3)
    with pytest.raises(ValueError, match="takes 16 bytes"):
        put_payload(message, "float32", (2, 2), b"1234")
    message.dtype, message.data = "float32", b"1234"
    message.shape.extend((2, 2))
    with pytest.raises(RingBroken, match="carries 4 bytes"):
        take_payload(message)
    message.shape.append(1)
    with pytest.raises(RingBroken, match="3 dimensions"):
        take_payload(message)


def test_an_unknown_dtype_is_named() -> None:
    """A newer peer's dtype is refused, never guessed."""
    with pytest.raises(RingBroken, match="float8"):
        parse_dtype("float8")
