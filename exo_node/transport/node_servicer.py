"""The server side of a node's control plane: handshake, health, topology, control stream, link probe.

`ControlServicer` knows nothing of models; the daemon derives from it for the calls about instances. Every call but the
handshake needs a session: build the server with `SessionInterceptor(servicer.sessions)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from typing import Any, Protocol
from urllib.parse import unquote

import grpc.aio

from exo_node.errors import KEY_DROPPED, InvalidRequest, NotFound, Unauthorized
from exo_node.signals import ChangeSignal
from exo_node.transport.convert import TopologyView, node_from_pb, node_to_pb, state_to_pb, topology_to_pb
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.transport.generated.exo.v1.node_pb2_grpc import NodeServiceServicer
from exo_node.transport.handshake import Session
from exo_node.transport.identity import NodeIdentity
from exo_node.transport.sessions import SessionTable
from exo_node.transport.tls import check_speaker, peer_certificate
from exo_node.types import NodeInfo, NodeState

BEAT_S = 0.5  # a quarter of the client's patience: three beats may be late
HANDSHAKE_TIMEOUT_S = 10.0
MAX_PROBE_BYTES = 16 * 2**20

Context = grpc.aio.ServicerContext[Any, Any]
OnPeer = Callable[[NodeInfo, str], None]  # a member shook hands with us, from this IP


class RelayHost(Protocol):
    """Calls external targets for peers (routing/upstream/relay_host.py)."""

    def relay(self, request: pb.RelayRequest, seconds: float | None) -> AsyncGenerator[pb.RelayChunk, None]:
        """The answer; `seconds` are what the caller still waits (None: it did not say)."""
        ...

    def profile(self) -> bytes:
        """Rows of the latency profile, as JSON."""
        ...


class AnswerHost(Protocol):
    """What this node tells its peers of the responses that it makes, mirrors and keeps (exo_node/mirror_link.py)."""

    def take(self, request: pb.MirrorResponsesRequest) -> pb.MirrorResponsesResponse: ...

    async def asked(self, request: pb.AskResponseRequest) -> pb.AskResponseResponse: ...

    def followed(self, request: pb.FollowResponseRequest) -> AsyncGenerator[pb.ResponseEvents, None]: ...


class ControlServicer(NodeServiceServicer):
    """`describe` and `state` are read whenever they are needed; call `changes.notify()` when they changed.

    `topology` gives what this node knows of the cluster. `health` returns "" or what is wrong. `on_peer` hears of every
    member that shook hands, so that two nodes find each other when only one of them sees the other. `rotate` takes a
    step of a change of the cluster's key.
    """

    def __init__(
        self,
        *,
        identity: NodeIdentity,
        describe: Callable[[], NodeInfo],
        state: Callable[[], NodeState],
        topology: Callable[[], TopologyView],
        changes: ChangeSignal,
        on_peer: OnPeer,
        rotate: Callable[[pb.RotateKeyRequest], Awaitable[pb.RotateKeyResponse]],
        relays: RelayHost | None = None,
        answers: AnswerHost | None = None,
        health: Callable[[], str] = lambda: "",
        beat_s: float = BEAT_S,
    ) -> None:
        self.sessions = SessionTable()
        self._identity = identity
        self._describe = describe
        self._state = state
        self._topology = topology
        self._changes = changes
        self._on_peer = on_peer
        self._rotate = rotate
        self._relays = relays
        self._answers = answers
        self._health = health
        self._beat_s = beat_s
        self._leaving = False
        self._watchers = 0

    async def leave(self, timeout: float = 0.5) -> None:
        """Tell every watcher that a clean exit follows and end their streams; call before the server stops."""
        self._leaving = True
        self._changes.notify()
        deadline = time.monotonic() + timeout
        while self._watchers and time.monotonic() < deadline:  # noqa: ASYNC110 - bounded, at exit only
            await asyncio.sleep(0.01)

    async def Handshake(
        self, request_iterator: AsyncIterator[pb.HandshakeMessage], context: Context
    ) -> AsyncGenerator[pb.HandshakeMessage, None]:
        hello: pb.Hello = await _next(request_iterator, "hello")
        machine = self._identity.server_handshake(hello.cluster_fingerprint)
        check_speaker(context, hello.node_id)
        yield pb.HandshakeMessage(challenge=machine.challenge(hello))
        proof: pb.Proof = await _next(request_iterator, "proof")
        session = machine.finish(proof.proof)
        info = _described(session, proof.node)
        self.sessions.add(session)
        welcome = pb.Welcome(
            session_id=session.session_id, protocol=session.protocol, node=node_to_pb(self._describe())
        )
        if info is not None:  # now: who has its welcome may end this call at once
            self._on_peer(info, remote_ip(context.peer()))
        yield pb.HandshakeMessage(welcome=welcome)

    async def HealthCheck(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        problem = self._health()
        return pb.HealthCheckResponse(is_healthy=not problem, detail=problem)

    async def CollectTopology(self, request: pb.CollectTopologyRequest, context: Context) -> pb.TopologyView:
        view = within(self._topology(), self._identity.node_id, frozenset(request.visited), request.max_depth)
        return topology_to_pb(view)

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncGenerator[pb.NodeState, None]:
        self._watchers += 1
        try:
            sent, beat = pb.NodeState(), True
            while True:
                seen = self._changes.version
                message = state_to_pb(self._state())
                message.leaving = self._leaving
                # Members' states depend on each other's: telling every byte of free memory at every change would make
                # them answer each other for ever. A beat tells it exactly.
                if message != sent and (beat or _material(message) != _material(sent)):
                    sent = message
                    yield message
                elif beat:
                    yield pb.NodeState()
                if message.leaving:
                    return
                beat = not await self._changed(seen)
        finally:
            self._watchers -= 1

    async def _changed(self, seen: int) -> bool:
        try:
            async with asyncio.timeout(self._beat_s):
                await self._changes.wait(seen)
        except TimeoutError:
            return False
        return True

    async def Relay(self, request: pb.RelayRequest, context: Context) -> AsyncGenerator[pb.RelayChunk, None]:
        async with contextlib.aclosing(self._relaying().relay(request, context.time_remaining())) as chunks:
            async for chunk in chunks:
                yield chunk

    async def CollectProfile(self, request: pb.CollectProfileRequest, context: Context) -> pb.CollectProfileResponse:
        return pb.CollectProfileResponse(rows_json=self._relaying().profile())

    async def RotateKey(self, request: pb.RotateKeyRequest, context: Context) -> pb.RotateKeyResponse:
        if request.key and not self._identity.tls.is_present(peer_certificate(context)):
            # Who is shut out by a rotation is let in for some seconds more, and must not use them to begin another.
            raise Unauthorized("a new key is taken only from who shows the present one", code=KEY_DROPPED)
        return await self._rotate(request)

    def _relaying(self) -> RelayHost:
        if self._relays is None:
            raise NotFound("this node calls no external models (--no-enable-litellm)")
        return self._relays

    async def MirrorResponses(
        self, request_iterator: AsyncIterator[pb.MirrorResponsesRequest], context: Context
    ) -> AsyncGenerator[pb.MirrorResponsesResponse, None]:
        host = self._answering()
        async for request in request_iterator:
            yield host.take(request)

    async def AskResponse(self, request: pb.AskResponseRequest, context: Context) -> pb.AskResponseResponse:
        return await self._answering().asked(request)

    async def FollowResponse(
        self, request: pb.FollowResponseRequest, context: Context
    ) -> AsyncGenerator[pb.ResponseEvents, None]:
        async with contextlib.aclosing(self._answering().followed(request)) as events:
            async for event in events:
                yield event

    def _answering(self) -> AnswerHost:
        if self._answers is None:
            raise NotFound("this node keeps no responses")
        return self._answers

    async def ProbeLink(self, request: pb.ProbeLinkRequest, context: Context) -> pb.ProbeLinkResponse:
        if request.reply_bytes > MAX_PROBE_BYTES:
            raise InvalidRequest(f"reply_bytes {request.reply_bytes} is over {MAX_PROBE_BYTES}", param="reply_bytes")
        return pb.ProbeLinkResponse(payload=bytes(request.reply_bytes))


def within(view: TopologyView, start: str, visited: Collection[str], max_depth: int) -> TopologyView:
    """The part of `view` at most `max_depth` links from `start`, without the nodes in `visited`."""
    reached = {start}
    frontier = {start}
    for _ in range(max_depth):
        if not frontier:
            break
        frontier = {link.to_id for node in frontier for link in view.links.get(node, ())} - reached
        reached |= frontier
    kept = reached.difference(visited)
    return TopologyView(
        {node_id: node for node_id, node in view.nodes.items() if node_id in kept},
        {node_id: links for node_id, links in view.links.items() if node_id in kept},
    )


def remaining_ms(context: Context) -> int | None:
    """How long the caller of this call still waits, in milliseconds; None when it set no deadline."""
    seconds = context.time_remaining()
    return None if seconds is None else max(0, int(seconds * 1000))


def remote_ip(peer: str) -> str:
    """The literal IP in gRPC's name of a peer ("ipv4:10.0.0.1:55", "ipv6:%5Bfe80::1%25eth0%5D:55"); "" if none."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    host = rest.rpartition(":")[0].strip("[]")
    mapped = ipaddress.IPv6Address(host.partition("%")[0]).ipv4_mapped if kind == "ipv6" else None
    return host if mapped is None else str(mapped)


def _material(message: pb.NodeState) -> pb.NodeState:
    """`message` with free memory rounded to 6 significant bits."""
    rough = pb.NodeState()
    rough.CopyFrom(message)
    holders: list[pb.NodeDescription | pb.DeviceDescription] = [rough.node, *rough.node.devices]
    for holder in holders:
        shift = max(0, holder.memory_free.bit_length() - 6)
        holder.memory_free = holder.memory_free >> shift << shift
    return rough


def _described(session: Session, node: pb.NodeDescription) -> NodeInfo | None:
    """The caller's description; None for a caller that serves nothing (`exo status` and the like)."""
    if not node.node_id:
        return None
    if (node.node_id, node.boot_id) != (session.peer.node_id, session.peer.boot_id):
        raise InvalidRequest(f"node {session.peer.node_id!r} describes itself as {node.node_id!r}", param="node")
    return node_from_pb(node)


async def _next(messages: AsyncIterator[pb.HandshakeMessage], expected: str) -> Any:
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            message = await anext(messages, None)
    except TimeoutError:
        raise InvalidRequest(f"no {expected} within {HANDSHAKE_TIMEOUT_S:.0f} s of the handshake") from None
    kind = None if message is None else message.WhichOneof("message")
    if kind != expected:
        raise InvalidRequest(f"the handshake wants {expected}, not {kind}")
    return getattr(message, expected)
