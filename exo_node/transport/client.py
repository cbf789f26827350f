"""A node's view of one peer: a channel, a session on it, and the calls of `NodeService`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc
import grpc.aio

from exo_node.errors import KEY_DROPPED, DeadlineExceeded, ExoError, PeerUnavailable, Unauthorized
from exo_node.transport.convert import TopologyView, node_from_pb, node_to_pb, state_from_pb, topology_from_pb
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.transport.generated.exo.v1.node_pb2_grpc import NodeServiceStub
from exo_node.transport.handshake import Session
from exo_node.transport.identity import NodeIdentity
from exo_node.transport.server import (
    KEEPALIVE_MS,
    KEEPALIVE_TIMEOUT_MS,
    MAX_RECEIVE,
    impatient,
    pings,
    target_of,
)
from exo_node.transport.sessions import credentials
from exo_node.transport.status import calling
from exo_node.transport.tls import Line, explain, node_name
from exo_node.types import NodeInfo, NodeState, PeerLink

CONNECT_TIMEOUT_S = 10.0  # these three as exo has them
HEALTH_TIMEOUT_S = 5.0
TOPOLOGY_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 10.0
EOF: Any = vars(grpc.aio)["EOF"]  # not in the type stubs
SILENCE_S = 2.0  # a peer that beats twice a second and says nothing for this long hangs or is cut off


def channel_options(max_receive: int = MAX_RECEIVE, silence_s: float | None = None) -> list[tuple[str, Any]]:
    """`silence_s`: the peer is gone when it answers nothing for so long; None leaves that to gRPC's slow pings."""
    return [
        ("grpc.enable_http_proxy", 0),  # peers are in our own network; a proxy variable must not catch them
        ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the back-off of a dead one
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Despite its name the time that one attempt may take: a busy machine or a long wire needs more than a moment.
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.max_receive_message_length", max_receive),
        ("grpc.max_send_message_length", max_receive),
        *(pings(KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS) if silence_s is None else impatient(silence_s)),
    ]


async def opened(channel: grpc.aio.Channel, timeout: float) -> grpc.ChannelConnectivity:
    """Open the connection: READY, TRANSIENT_FAILURE where it is refused, else nobody has answered for so many seconds.

    Who answers needs its Python for that, for a moment (tls.py); pings it answers without.
    """
    state = channel.get_state(try_to_connect=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while state not in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE):
                await channel.wait_for_state_change(state)
                state = channel.get_state()
    return state


class GRPCPeerHandle:
    """One peer at one address. `connect` first; every error is an `ExoError` that names the peer.

    Timeouts are seconds; gRPC sends them as the time that remains, never as a clock time.
    """

    def __init__(
        self,
        address: str,
        port: int,
        node_id: str = "",
        *,
        identity: NodeIdentity,
        describe: Callable[[], NodeInfo],
        silence_s: float | None = None,
    ) -> None:
        """Only node `node_id` is spoken with; "" = any of our cluster. `silence_s`: see `channel_options`."""
        self.address = address
        self.port = port
        self._node_id = node_id
        self._identity = identity
        self._options = channel_options(silence_s=silence_s)
        self._describe = describe
        self._line: Line | None = None
        self._retired: list[Line] = []
        self._watching: Any = None  # the call of the control stream
        self._session: Session | None = None
        self._info: NodeInfo | None = None
        self._lock = asyncio.Lock()

    @property
    def info(self) -> NodeInfo:
        """What the peer said of itself in the handshake."""
        if self._info is None:
            raise PeerUnavailable(f"node {self.addr()} is not connected")
        return self._info

    def id(self) -> str:
        return self.info.node_id

    def addr(self) -> str:
        return target_of(self.address, self.port)

    def description(self) -> str:
        return f"{self._name()} at {self.addr()}"

    def is_connected(self) -> bool:
        return self._session is not None

    def _name(self) -> str:
        return self.addr() if self._info is None else self._info.node_id

    async def connect(self, timeout: float = CONNECT_TIMEOUT_S) -> NodeInfo:
        """Dial and shake hands. Raises `PeerUnavailable`, `DeadlineExceeded`, `ClusterMismatch`, `ProtocolMismatch`."""
        try:
            async with self._lock:
                if self._line is None:
                    self._line = self._open()
                await self._shake_hands(timeout)
        except PeerUnavailable as error:
            await self.close()
            me, papers = self._identity.node_id, self._identity.tls.papers
            # Not from `error`, which it may be itself: such a ring keeps all that it has passed through for a while.
            raise await explain(error, self.address, self.port, me=me, wanted=self._node_id, papers=papers) from None
        except BaseException:
            await self.close()
            raise
        return self.info

    async def renew(self) -> None:
        """Go on over a new connection, by our present papers; calls that run end on the old one, the watch moves.

        Closes everything and raises as `connect` does when that fails.
        """
        async with self._lock:
            old = self._line
            if old is None:
                return
            self._retired.append(old)
            self._line = self._open()
        await self.connect()
        if self._watching is not None:
            self._watching.cancel()
        await old.retire()

    def _open(self) -> Line:
        name = node_name(self._node_id or ("" if self._info is None else self._info.node_id))
        channel = self._identity.tls.channel(self.addr(), name, self._options)
        return Line(channel, NodeServiceStub(channel))  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        lines = [*self._retired, *([] if self._line is None else [self._line])]
        self._line, self._session, self._retired = None, None, []
        for line in lines:
            await line.close()

    disconnect = close

    async def _shake_hands(self, timeout: float) -> Session:
        machine = self._identity.client_handshake()
        async with self._use() as stub:
            call = stub.Handshake(timeout=timeout)
            try:
                with calling(self._name()):
                    challenge = await self._exchange(call, pb.HandshakeMessage(hello=machine.hello()), "challenge")
                    proof = pb.Proof(proof=machine.prove(challenge), node=node_to_pb(self._describe()))
                    welcome: pb.Welcome = await self._exchange(call, pb.HandshakeMessage(proof=proof), "welcome")
                session = machine.finish(welcome)
                info = node_from_pb(welcome.node)
            finally:
                call.cancel()
        if self._info is not None and (info.node_id, info.boot_id) != (self._info.node_id, self._info.boot_id):
            raise PeerUnavailable(f"node {self._name()} restarted, or another node has its address {self.addr()} now")
        self._session, self._info = session, info
        return session

    async def _exchange(self, call: Any, message: pb.HandshakeMessage, expected: str) -> Any:
        with contextlib.suppress(asyncio.InvalidStateError):  # the peer ended the call: read() says why
            await call.write(message)
        reply = await call.read()
        kind = None if reply is EOF else reply.WhichOneof("message")
        if kind != expected:
            raise PeerUnavailable(f"node {self._name()} answered the handshake with {kind}, not {expected}")
        return getattr(reply, expected)

    @contextlib.asynccontextmanager
    async def _use(self) -> AsyncGenerator[Any, None]:
        """The stub, for one call. What runs on after a renewal may end with the old key, as by a break of its
        connection: that says nothing of our rights."""
        line = self._line
        if line is None:
            raise PeerUnavailable(f"node {self._name()} is not connected")
        try:
            async with line.use() as stub:
                yield stub
        except Unauthorized as error:
            if error.code != KEY_DROPPED or self._line in (line, None):
                raise
            raise PeerUnavailable(f"the connection to node {self._name()} was the old key's; ask again") from None

    async def _current(self, stale: Session | None, timeout: float) -> Session:
        """The session to use; a new one when `stale` was refused. Concurrent callers share one handshake."""
        async with self._lock:
            if self._session is None:
                raise PeerUnavailable(f"node {self._name()} is not connected")
            if self._session is stale:
                return await self._shake_hands(timeout)
            return self._session

    async def call(self, method: str, request: Any, timeout: float) -> Any:
        """A unary call of `NodeService.method`. Shakes hands again once when the peer forgot the session."""
        deadline = time.monotonic() + timeout
        stale: Session | None = None
        while True:
            session = await self._current(stale, timeout)
            try:
                async with self._use() as stub:
                    with calling(self._name()):
                        return await getattr(stub, method)(
                            request,
                            timeout=max(0.0, deadline - time.monotonic()),
                            metadata=credentials(session, f"/exo.v1.NodeService/{method}"),
                        )
            except Unauthorized as failure:
                if stale is not None or not no_session(failure):
                    raise
                stale = session

    async def stream(
        self, method: str, request: Any, timeout: float | None, *, silence: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """A server stream of `NodeService.method`; closing the generator cancels the call.

        `timeout` bounds the whole stream (None: no bound), `silence` the wait for each message (`PeerUnavailable`).
        """
        stale: Session | None = None
        while True:
            session = await self._current(stale, timeout or CONNECT_TIMEOUT_S)
            async with self._use() as stub:
                call = getattr(stub, method)(
                    request, timeout=timeout, metadata=credentials(session, f"/exo.v1.NodeService/{method}")
                )
                if method == "Watch":
                    self._watching = call
                try:
                    while (message := await self._read(call, silence)) is not EOF:
                        yield message
                    return
                except Unauthorized as failure:
                    # A refused session fails before the first message, so nothing is yielded twice.
                    if stale is not None or not no_session(failure):
                        raise
                    stale = session
                finally:
                    call.cancel()

    async def open(self, method: str, stale: Session | None, timeout: float) -> tuple[Any, Session]:
        """A call that streams both ways, and its session; another one than `stale`, which was refused."""
        session = await self._current(stale, timeout)
        if self._line is None:
            raise PeerUnavailable(f"node {self._name()} is not connected")
        call = getattr(self._line.stub, method)(metadata=credentials(session, f"/exo.v1.NodeService/{method}"))
        return call, session

    async def _read(self, call: Any, silence: float | None) -> Any:
        try:
            async with asyncio.timeout(silence):
                with calling(self._name()):
                    return await call.read()
        except TimeoutError:
            raise PeerUnavailable(f"node {self._name()} said nothing for {silence} s") from None

    async def watch(self, silence: float = SILENCE_S) -> AsyncGenerator[NodeState, None]:
        """The peer's state now and at each change. Ends after a state with `leaving`.

        Raises `PeerUnavailable` when the stream breaks or the peer is silent for `silence` seconds.
        """
        while True:
            line = self._line
            stream = self.stream("Watch", pb.WatchRequest(), None, silence=silence)
            try:
                async for message in stream:
                    if not message.HasField("node"):
                        continue  # a beat
                    state = state_from_pb(message)
                    yield state
                    if state.leaving:
                        return
            except ExoError:
                if self._line in (line, None):
                    raise
                continue  # the connection was renewed under it
            finally:
                await stream.aclose()
            raise PeerUnavailable(f"node {self._name()} closed the control stream")

    async def health_check(self, timeout: float = HEALTH_TIMEOUT_S) -> bool:
        """Whether the peer answers and calls itself healthy; never raises for an unhealthy one."""
        try:
            reply = await self.call("HealthCheck", pb.HealthCheckRequest(), timeout)
        except (PeerUnavailable, DeadlineExceeded):
            return False
        return bool(reply.is_healthy)

    async def collect_topology(
        self, visited: set[str] | None = None, max_depth: int = 4, timeout: float = TOPOLOGY_TIMEOUT_S
    ) -> TopologyView:
        """What the peer knows of nodes up to `max_depth` links away from it, without those in `visited`."""
        request = pb.CollectTopologyRequest(visited=sorted(visited or ()), max_depth=max_depth)
        return topology_from_pb(await self.call("CollectTopology", request, timeout))

    async def probe_link(
        self, *, pings: int = 5, payload_bytes: int = 2**20, timeout: float = PROBE_TIMEOUT_S
    ) -> PeerLink:
        """Measure the way to the peer: best round trip of `pings` empty probes, and bytes/s of one large one."""
        async with asyncio.timeout(timeout):
            rtt = min([await self._probe(b"", timeout) for _ in range(pings)])
            loaded = await self._probe(bytes(payload_bytes), timeout)
        # One payload over what it took beyond an empty trip; never less than a tenth of it, for a link of pure latency.
        seconds = max(loaded - rtt, loaded / 10, 1e-6)
        return PeerLink(self.id(), self.addr(), max(1, round(rtt * 1e6)), round(payload_bytes / seconds))

    async def _probe(self, payload: bytes, timeout: float) -> float:
        begun = time.perf_counter()
        await self.call("ProbeLink", pb.ProbeLinkRequest(payload=payload, reply_bytes=0), timeout)
        return time.perf_counter() - begun


def no_session(error: ExoError) -> bool:
    """Whether the peer has forgotten the session: shake hands again."""
    return isinstance(error, Unauthorized) and error.code == "no_session"
