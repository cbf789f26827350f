"""Hidden states as message fields and back. No numpy, no framework: bytes, a shape and the name of a dtype.

bfloat16 travels as raw bits (ARCHITECTURE 3.3); a protobuf `bytes` field costs one copy each way, nothing else copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from exo_node.errors import RingBroken
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import DTYPE_BYTES, Dtype


@dataclass(frozen=True, slots=True)
class Payload:
    """`shape` = (tokens, hidden size), `data` little-endian in C order."""

    dtype: Dtype
    shape: tuple[int, int]
    data: bytes | memoryview


def parse_dtype(name: str) -> Dtype:
    """`name` as a wire dtype; anything else is the sender's fault and breaks the ring."""
    for dtype in get_args(Dtype):
        if dtype == name:
            return dtype  # type: ignore[no-any-return]
    raise RingBroken(
        f"a step carries dtype '{name}'; this node knows {', '.join(get_args(Dtype))}: check the sender's version"
    )


def put_payload(message: ring_pb2.StepMessage, dtype: Dtype, shape: tuple[int, int], data: bytes | memoryview) -> None:
    """Write a hidden state into `message`. The data must have exactly the size that dtype and shape say."""
    expected = shape[0] * shape[1] * DTYPE_BYTES[dtype]
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size != expected:
        raise ValueError(f"hidden state {shape} in {dtype} takes {expected} bytes, the engine handed over {size}")
    message.dtype = dtype
    message.shape.extend(shape)
    message.data = data if isinstance(data, bytes) else bytes(data)


def take_payload(message: ring_pb2.StepMessage) -> Payload | None:
    """The hidden state in `message`, or None where it carries none. Raises `RingBroken` on contradictions."""
    if not message.dtype and not message.shape and not message.data:
        return None
    dtype = parse_dtype(message.dtype)
    if len(message.shape) != 2:
        raise RingBroken(f"step {message.step} carries a hidden state of {len(message.shape)} dimensions instead of 2")
    shape = (message.shape[0], message.shape[1])
    data = message.data
    if len(data) != shape[0] * shape[1] * DTYPE_BYTES[dtype]:
        raise RingBroken(f"step {message.step} says {shape} in {dtype} but carries {len(data)} bytes")
    return Payload(dtype, shape, data)
