"""Steps and their hidden states as bytes and back. No numpy, no framework: bytes, a shape and the name of a dtype.

bfloat16 travels as raw bits (ARCHITECTURE 3.3). The bytes are those of an ordinary `StepMessage`, but protobuf never
sees the payload: its runtime would copy it on assignment, on serialization, on parsing and on access. `StepFrame`
writes it in front of the other fields, which protobuf allows in any order: one copy from the engine's memory into the
message, none from a received message to the view that an engine reads. (gRPC copies messages into its own memory and
out of it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from google.protobuf.message import DecodeError

from exo_node.errors import RingBroken
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import DTYPE_BYTES, Dtype

Buffer = bytes | memoryview

ALIGNMENT = 16  # of the payload in the message: vector instructions and numpy like their items whole
SCALE_BYTES = 4  # float32
_PADDING_TAG = ring_pb2.StepMessage.PADDING_FIELD_NUMBER << 3 | 2  # wire type 2: a length and so many bytes
_DATA_TAG = ring_pb2.StepMessage.DATA_FIELD_NUMBER << 3 | 2


@dataclass(slots=True)
class StepFrame:
    """A step as it travels: `message` without its `data`, and the data beside it in `pieces`, uncopied."""

    message: ring_pb2.StepMessage
    pieces: Sequence[Buffer] = ()

    def to_bytes(self) -> bytes:
        """A serialized `StepMessage`. The pieces are read here, for the only time."""
        size = sum(_size(piece) for piece in self.pieces)
        rest = self.message.SerializeToString()
        if not size:
            return rest
        length = _varint(size)
        padding = -(3 + len(length)) % ALIGNMENT  # two tags and the padding's own length, a byte each
        return b"".join(
            (bytes((_PADDING_TAG, padding)), bytes(padding), bytes((_DATA_TAG,)), length, *self.pieces, rest)
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> StepFrame:
        """The step in a serialized `StepMessage`, from our `to_bytes` or of any other making. Raises `RingBroken`."""
        try:
            found = _leading_payload(data)
            if found is None:
                message = ring_pb2.StepMessage.FromString(data)
            else:
                message = ring_pb2.StepMessage.FromString(data[found.stop :])
        except DecodeError as error:
            raise RingBroken(f"a step that is no StepMessage came in: {error}") from error
        if message.data:  # not ahead of the rest; of two, the last one counts
            payload: Buffer = message.data
            message.ClearField("data")
        else:
            payload = b"" if found is None else memoryview(data)[found.start : found.stop]
        return cls(message, (payload,))


@dataclass(frozen=True, slots=True)
class Payload:
    """`shape` = (tokens, hidden size), `data` little-endian in C order. Where `int8_rows` names rows, `data` is laid
    out as ring.proto says."""

    dtype: Dtype
    shape: tuple[int, int]
    data: Buffer
    int8_rows: tuple[int, ...] = ()


def parse_dtype(name: str) -> Dtype:
    """`name` as a wire dtype; anything else is the sender's fault and breaks the ring."""
    for dtype in get_args(Dtype):
        if dtype == name:
            return dtype  # type: ignore[no-any-return]
    raise RingBroken(
        f"a step carries dtype '{name}'; this node knows {', '.join(get_args(Dtype))}: check the sender's version"
    )


def payload_bytes(dtype: Dtype, shape: tuple[int, int], packed: int = 0) -> int:
    """What a hidden state takes of which `packed` vectors travel as int8."""
    tokens, width = shape
    return (tokens - packed) * width * DTYPE_BYTES[dtype] + packed * (width + SCALE_BYTES)


def put_payload(frame: StepFrame, dtype: Dtype, shape: tuple[int, int], data: Buffer) -> None:
    """Give `frame` a hidden state, which is read when the frame becomes bytes.

    The data must have exactly the size that dtype and shape say.
    """
    expected, size = payload_bytes(dtype, shape), _size(data)
    if size != expected:
        raise ValueError(f"hidden state {shape} in {dtype} takes {expected} bytes, the engine handed over {size}")
    frame.message.dtype = dtype
    frame.message.shape.extend(shape)
    frame.pieces = (data,)


def take_payload(frame: StepFrame) -> Payload | None:
    """The hidden state in a received `frame`, or None where it carries none. Raises `RingBroken` on contradictions."""
    message = frame.message
    data = frame.pieces[0] if len(frame.pieces) == 1 else b"".join(frame.pieces)
    size = _size(data)
    if not message.dtype and not message.shape and not size:
        return None
    dtype = parse_dtype(message.dtype)
    if len(message.shape) != 2:
        raise RingBroken(f"step {message.step} carries a hidden state of {len(message.shape)} dimensions instead of 2")
    shape = (message.shape[0], message.shape[1])
    packed = tuple(message.int8_rows)
    if packed and not (sorted({*packed}) == [*packed] and packed[-1] < len(message.rows)):
        raise RingBroken(f"step {message.step} packs rows {list(packed)} of {len(message.rows)}")
    vectors = sum(message.rows[index].length for index in packed)
    if vectors > shape[0] or size != payload_bytes(dtype, shape, vectors):
        packing = f" with {vectors} as int8" if packed else ""
        raise RingBroken(f"step {message.step} says {shape} in {dtype}{packing} but carries {size} bytes")
    return Payload(dtype, shape, data, packed)


def _leading_payload(data: bytes) -> slice | None:
    """Where the payload lies in what `StepFrame.to_bytes` wrote, or None for a message of another making."""
    if len(data) < 3 or data[0] != _PADDING_TAG or data[1] >= ALIGNMENT:
        return None
    tag = 2 + data[1]
    if data[tag : tag + 1] != bytes((_DATA_TAG,)):
        return None
    size = 0
    for place, byte in enumerate(data[tag + 1 : tag + 6]):
        size |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            start = tag + 2 + place
            return slice(start, start + size) if start + size <= len(data) else None
    return None


def _varint(value: int) -> bytes:
    """Protobuf's integers: seven bits a byte, low ones first, the top bit where more follow."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _size(data: Buffer) -> int:
    return data.nbytes if isinstance(data, memoryview) else len(data)
