"""Calls over real channels: of a daemon's `NodeServicer` in this process, of a runner's `RingServicer` in its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from hypothesis import strategies as st

from exo_node.cluster.keys import ClusterKey
from exo_node.config import Settings
from exo_node.daemon import Daemon
from exo_node.transport.client import channel_options
from exo_node.transport.generated.exo.v1 import node_pb2, ring_pb2
from exo_node.transport.generated.exo.v1.node_pb2_grpc import add_NodeServiceServicer_to_server
from exo_node.transport.ring_client import EPOCH_KEY, TOKEN_KEY
from exo_node.transport.server import MAX_CONTROL, server_options
from exo_node.transport.sessions import SessionInterceptor
from exo_node.transport.status import METADATA_KEY, ErrorInterceptor
from exo_node.transport.tls import ANY_NODE
from tests.fuzz.cases import Finding, Target
from tests.fuzz.inputs import broken
from tests.fuzz.protos import messages
from tests.integration import runners
from tests.papers import tls

NODE = node_pb2.DESCRIPTOR.services_by_name["NodeService"]
RING = ring_pb2.DESCRIPTOR.services_by_name["RingService"]
TIMEOUT_S = 20.0
KEY = ClusterKey(bytes(32))
READ = 1  # answers of a stream: some have no end
LAST_EPOCH = 2**40  # those beyond are kept for the last check
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@dataclass(frozen=True)
class Call:
    """`way`: "member", "stranger" (without what members show), or "raw": bytes into the socket."""

    way: str
    method: str
    frames: tuple[bytes, ...]
    epoch: str = ""


class World:
    """A loop with servers that live as long as a block."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ports: dict[str, int], channels: dict[str, Any]) -> None:
        self.loop = loop
        self.ports = ports
        self.channels = channels
        self.metadata: dict[str, tuple[tuple[str, str], ...]] = {"member": (), "stranger": ()}


@contextlib.contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(lambda _loop, _context: None)
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@contextlib.contextmanager
def _node() -> Iterator[World]:
    """A daemon's servicer behind two ports: one for those who have shaken hands, one that asks for it."""
    with _loop() as loop, tempfile.TemporaryDirectory(prefix="exo-fuzz-") as home:
        settings = Settings(home=Path(home), offline=True, discovery_module="none", enable_litellm=True)

        async def start() -> tuple[Any, list[Any], dict[str, int]]:
            daemon = Daemon(settings, KEY, "fuzzed")
            await daemon.keys.start()
            servers, ports = [], {}
            for way, more in (("member", []), ("stranger", [SessionInterceptor(daemon._servicer.sessions)])):
                chain: list[Any] = [daemon.keys.gate, *more, ErrorInterceptor()]
                server = grpc.aio.server(interceptors=chain, options=server_options(MAX_CONTROL))
                add_NodeServiceServicer_to_server(daemon._servicer, server)  # type: ignore[no-untyped-call]
                ports[way] = server.add_secure_port("127.0.0.1:0", daemon.keys.tls.server_credentials())
                await server.start()
                servers.append(server)
            return daemon, servers, ports

        daemon, servers, ports = loop.run_until_complete(start())
        channels = {way: _channel(port) for way, port in ports.items()}
        world = World(loop, {**ports, "raw": ports["stranger"]}, channels)
        yield world
        _check(world, Call("member", f"/{NODE.full_name}/HealthCheck", (b"",)))
        if daemon.host.shards():
            raise Finding("a call that should fail has loaded a shard")
        for one in (*channels.values(), *servers):
            loop.run_until_complete(one.close() if hasattr(one, "close") else one.stop(None))
        daemon.routing.store.close()


@contextlib.contextmanager
def _runner() -> Iterator[World]:
    """A runner process with the engine that we ship for tests, the only stage of its ring."""
    with _loop() as loop, tempfile.TemporaryDirectory(prefix="exo-fuzz-") as folder:
        made = runners.ring(runners.model_folder(Path(folder)), 1)
        ring = loop.run_until_complete(made.__aenter__())
        client: Any = ring.clients[0]
        channel = loop.run_until_complete(client._open()).channel
        port = int(client.address.rpartition(":")[2])
        world = World(loop, {"raw": port}, {"member": channel, "stranger": channel})
        world.metadata = {"member": ((TOKEN_KEY, runners.TOKEN.hex()),), "stranger": ((TOKEN_KEY, "guess"),)}
        try:
            yield world
            loop.run_until_complete(_still_serves(ring))
        finally:
            loop.run_until_complete(made.__aexit__(None, None, None))


async def _still_serves(ring: runners.Ring) -> None:
    if ring.runners[0].process.returncode is not None:
        raise Finding("the runner has ended")
    await ring.configure(LAST_EPOCH + 1)
    ids, reason = await runners.generate(ring.clients[0], runners.request((1, 2, 3), 4))
    if (len(ids), reason) != (4, "length"):
        raise Finding("the runner does not generate any more")


def _channel(port: int) -> Any:
    """Of a member: strangers get no further than TLS (tests/integration/test_trust.py), and have "raw"."""
    return tls("fuzzer.exo", key=KEY).channel(f"127.0.0.1:{port}", ANY_NODE, channel_options())


def _check(world: World, call: Call) -> None:
    if call.way == "raw":
        _raw(world.ports["raw"], b"".join(call.frames))
    else:
        world.loop.run_until_complete(_called(world, call))


def _raw(port: int, data: bytes) -> None:
    """What is no gRPC at all; whatever comes back is no business of ours."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as one:
        one.sendall(data)


async def _called(world: World, call: Call) -> None:
    metadata = world.metadata[call.way]
    if call.epoch:
        metadata = (*metadata, (EPOCH_KEY, call.epoch))
    made = world.channels[call.way].stream_stream(call.method)(metadata=metadata, timeout=TIMEOUT_S)
    answers = 0
    try:
        for frame in call.frames:
            await made.write(frame)
        await made.done_writing()
        while answers < READ and await made.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
            answers += 1
        if answers < READ and await made.code() is not grpc.StatusCode.OK:
            _judge(call, made, await made.code(), await made.details(), await made.trailing_metadata())
    except grpc.aio.AioRpcError as error:
        _judge(call, made, error.code(), error.details(), error.trailing_metadata())
    except asyncio.InvalidStateError:  # it was ended while we wrote
        _judge(call, made, await made.code(), await made.details(), await made.trailing_metadata())
    finally:
        made.cancel()
    if call.way == "stranger" and answers and not call.method.endswith("/Handshake"):
        raise Finding(f"{call.method} answered a stranger")


def _judge(call: Call, made: Any, code: Any, details: str | None, trailing: Any) -> None:
    said = details or ""
    if "Traceback" in said or 'File "' in said or "Unexpected <class" in said:
        raise Finding(f"{call.method} shows our code: {said[:200]}")
    ours = any(key == METADATA_KEY for key, _ in trailing or ())
    if not ours and code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED):
        raise Finding(f"{call.method} ended with {code}: {said[:200]}")
    if code is grpc.StatusCode.INTERNAL and not ours and said != "Internal error from Core":  # that is our side's
        raise Finding(f"{call.method} failed inside: {said[:200]}")


# ---- what is called

# A model that is there would be loaded, which takes seconds; one that is not takes the same way up to that.
_NO_MODEL = {"PlaceModelRequest": "model", "DescribeModelRequest": "model"}


def _examples(service: Any) -> st.SearchStrategy[Any]:
    return st.one_of([st.tuples(st.just(one), messages(one.input_type)) for one in service.methods])


def _tamed(message: Message) -> bytes:
    """Without what would end the block: a model that is loaded, an epoch after which there is none."""
    field = _NO_MODEL.get(message.DESCRIPTOR.name)
    if field is not None:
        setattr(message, field, f"no-{getattr(message, field)}")
    if "epoch" in message.DESCRIPTOR.fields_by_name and message.HasField("epoch"):
        epoch: Any = message.epoch  # type: ignore[attr-defined]
        epoch.counter %= LAST_EPOCH
    return message.SerializeToString()


def _node_calls(example: Any, random: Random) -> Iterator[Call]:
    method, message = example
    path = f"/{NODE.full_name}/{method.name}"
    data = _tamed(message)
    yield Call("member", path, (data,))
    while True:
        way = random.choice(("member", "member", "stranger"))
        match random.randrange(40):
            case 0:
                yield Call("raw", path, (PREFACE, broken(PREFACE * 3 + data, random)))
            case 1:
                yield Call("raw", path, (random.randbytes(random.randrange(200)),))
            case 2:
                yield Call(way, f"/{NODE.full_name}/Nothing", (data,))
            case 3:
                yield Call(way, path, (bytes(MAX_CONTROL + 1000) if random.random() < 0.1 else b"",))
            case 4:
                yield Call(way, path, (data, data, broken(data, random)))
            case _ if message.DESCRIPTOR.name in _NO_MODEL:
                yield Call(way, path, (data,))
            case _:
                yield Call(way, path, (broken(data, random),))


def _sound(name: str, random: Random) -> Message:
    """A message that a member would send, for the only stage of the ring."""
    epoch = ring_pb2.Epoch(counter=random.randrange(2, LAST_EPOCH), coordinator="test")
    if name == "GenerateRequest":
        return runners.request([random.randrange(runners.VOCAB) for _ in range(3)], 4)
    if name == "ConfigureRequest":
        return ring_pb2.ConfigureRequest(
            instance_id=runners.INSTANCE, epoch=epoch, n_stages=1, wire_dtype="bfloat16", slots=runners.SLOTS,
            context=runners.CONTEXT, max_chunk=runners.MAX_CHUNK, rollback_depth=-1,
        )  # fmt: skip
    if name == "FenceRequest":
        return ring_pb2.FenceRequest(instance_id=runners.INSTANCE, epoch=epoch)
    if name == "StepMessage":
        return ring_pb2.StepMessage(instance_id=runners.INSTANCE, epoch=epoch, step=1)
    return ring_pb2.StatsRequest()


def _ring_calls(example: Any, random: Random) -> Iterator[Call]:
    method, message = example
    path = f"/{RING.full_name}/{method.name}"
    while True:
        sound = _sound(message.DESCRIPTOR.name, random)
        said = [field for field, _ in message.ListFields()]
        for field in random.sample(said, min(len(said), random.randrange(3))):
            sound.ClearField(field.name)
            part = type(sound)()
            part.CopyFrom(message)
            for other in said:
                if other is not field:
                    part.ClearField(other.name)
            sound.MergeFrom(part)
        data = _tamed(sound) if random.random() < 0.7 else _tamed(message)
        frames = tuple(random.choice((data, data, broken(data, random))) for _ in range(random.choice((1, 1, 1, 3))))
        epoch = random.choice(("", "1/test", "x", "1/", "0/a", "-1/test")) if method.name == "Steps" else ""
        way = random.choice(("member", "member", "member", "stranger"))
        if random.random() < 0.02:
            yield Call("raw", path, (PREFACE, broken(data, random)))
        elif method.client_streaming:
            yield Call(way, path, frames, epoch)
        elif message.DESCRIPTOR.name in ("ConfigureRequest", "FenceRequest"):
            yield Call(way, path, (data,))  # whole: bits that turn in an epoch would end the block
        else:
            yield Call(way, path, frames[:1])


TARGETS = (
    Target(
        name="grpc.node",
        share=5,
        example=_examples(NODE),
        spread=_node_calls,
        check=_check,
        each=10,
        world=_node,
    ),
    Target(
        name="grpc.runner",
        share=5,
        example=_examples(RING),
        spread=_ring_calls,
        check=_check,
        each=10,
        world=_runner,
    ),
)
