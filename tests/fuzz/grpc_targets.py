"""Messages between nodes and runners, as bytes: what reads them gives a value or an error of ours."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, get_args

from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

from exo_node.errors import RingBroken
from exo_node.ring.library import spec_from_json, spec_to_json
from exo_node.ring.wire import read_job, read_step
from exo_node.routing.call import CallKind
from exo_node.routing.upstream.peer_upstream import error_from_pb
from exo_node.routing.upstream.relay_host import attempt_of
from exo_node.transport.codec import StepFrame
from exo_node.transport.convert import instance_from_pb, shard_from_pb, state_from_pb, topology_from_pb
from exo_node.transport.generated.exo.v1 import node_pb2, ring_pb2
from exo_node.transport.handshake import ClientHandshake, Party, ServerHandshake
from exo_node.transport.status import decode_error, encode_error
from exo_node.types import ModelSpec
from tests.fuzz.cases import Finding, Target
from tests.fuzz.inputs import anything, as_json, broken, mutated
from tests.fuzz.protos import message_classes, messages

ME = Party("ann", "boot", "f" * 32, "0.1.0")
SECRET = b"s" * 32
NONCE = bytes(32)


def _server(message: Any) -> None:
    ServerHandshake(ME, SECRET, nonce=NONCE).challenge(message)


def _proof(message: Any) -> None:
    machine = ServerHandshake(ME, SECRET, nonce=NONCE)
    machine.challenge(ClientHandshake(ME, SECRET, nonce=NONCE).hello())
    machine.finish(message.proof)
    raise Finding("a made-up proof was accepted")


def _client(message: Any) -> None:
    machine = ClientHandshake(ME, SECRET, nonce=NONCE)
    machine.hello()
    machine.prove(message)
    raise Finding("a made-up challenge was accepted")


def _spec(message: Any) -> None:
    if message.spec_json:
        spec_from_json(message.spec_json)


# What is done with a message before anything else looks at it.
READERS: dict[str, Callable[[Any], Any]] = {
    "NodeState": state_from_pb,
    "TopologyView": topology_from_pb,
    "InstanceDescription": instance_from_pb,
    "ShardDescription": shard_from_pb,
    "DescribeModelResponse": _spec,
    "RelayRequest": lambda message: attempt_of(message, 5.0),
    "RelayError": error_from_pb,
    "GenerateRequest": lambda message: read_job(message, 0.0),
    "StepMessage": lambda message: read_step(StepFrame.from_bytes(message.SerializeToString())),
    "Hello": _server,
    "Proof": _proof,
    "Challenge": _client,
}
SPEC = json.loads(
    spec_to_json(
        ModelSpec(
            model_id="m", path="", architecture="a", config={"hidden_size": 2}, n_layers=1, hidden_size=2, vocab_size=3,
            max_context=5, dtype="float32", layer_bytes=(5,), embed_bytes=1, head_bytes=1, n_params=9,
            layer_packed=(0,),
            outer_packed=0, kv_width=2,
        )
    )
)  # fmt: skip
Case = tuple[type[Message], bytes]


def _spread(example: Message, random: Random) -> Iterator[Case]:
    data = example.SerializeToString()
    yield type(example), data
    while True:
        yield type(example), broken(data, random)


def _read(world: Any, case: Case) -> None:
    kind, data = case
    try:
        message = kind.FromString(data)
    except DecodeError:
        return
    reader = READERS.get(kind.DESCRIPTOR.name)
    if reader is not None:
        reader(message)


def _inner(example: Any, random: Random) -> Iterator[Case]:
    """JSON within messages, most of it nearly right."""
    while True:
        body = as_json(mutated({"model": "m", "messages": [{"role": "user", "content": "c"}], "n": 1}, random))
        example.kind = random.choice(get_args(CallKind))
        example.body_json = random.choice((body, body, broken(body, random), b"[]", b"[" * 5000, b"1e999"))
        yield type(example), example.SerializeToString()
        spec = mutated(SPEC, random)
        text = random.choice((as_json(spec), as_json(spec), broken(as_json(spec), random))).decode(errors="replace")
        answer = node_pb2.DescribeModelResponse(spec_json=text)
        yield type(answer), answer.SerializeToString()


def _step(world: Any, data: bytes) -> None:
    """A received step, as the runner's stream gives it; what is read of it is all there."""
    frame = StepFrame.from_bytes(data)
    with contextlib.suppress(RingBroken):
        step = read_step(frame)
        if step.hidden is not None and len(bytes(step.hidden.data)) > len(data) * 8 + 64:
            raise Finding("a step has more data than came")


def _steps(example: Any, random: Random) -> Iterator[bytes]:
    message, payload = example
    frame = StepFrame(message, (payload,))
    yield frame.to_bytes()
    if not message.dtype:
        message.dtype, message.shape[:] = "float32", [len(payload) // 8, 2]
    yield frame.to_bytes()
    while True:
        yield broken(frame.to_bytes(), random)


def _errors(example: Any, random: Random) -> Iterator[bytes]:
    sound = {"class": "NoCapacity", "message": "m", "status": 503, "type": "t", "code": "c", "param": None}
    yield encode_error(RingBroken("m"))
    yield as_json(example)
    yield as_json({**sound, "status": 1e308}).replace(b"1e+308", b"1e999")
    while True:
        yield random.choice((as_json(mutated(sound, random)), broken(as_json(sound), random)))


def _error(world: Any, data: bytes) -> None:
    error = decode_error(data)
    if error is not None:
        decode_error(encode_error(error))


TARGETS = (
    Target(
        name="grpc.messages",
        share=180,
        example=st.one_of([messages(one.DESCRIPTOR) for one in message_classes()]),
        spread=_spread,
        check=_read,
        each=20,
    ),
    Target(
        name="grpc.readers",
        share=80,
        example=st.one_of([messages(one.DESCRIPTOR) for one in message_classes() if one.DESCRIPTOR.name in READERS]),
        spread=_spread,
        check=_read,
        each=10,
    ),
    Target(
        name="grpc.steps",
        share=40,
        example=st.tuples(messages(ring_pb2.StepMessage.DESCRIPTOR), st.binary(max_size=128)),
        spread=_steps,
        check=_step,
        each=20,
    ),
    Target(
        name="grpc.inner",
        share=20,
        example=messages(node_pb2.RelayRequest.DESCRIPTOR),
        spread=_inner,
        check=_read,
        each=20,
    ),
    Target(name="grpc.errors", share=10, example=anything, spread=_errors, check=_error, each=20),
)
