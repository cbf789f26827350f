"""The sessions that a server has granted, and the guard that lets no call in without one."""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from exo_node.errors import Unauthorized
from exo_node.transport.handshake import Session
from exo_node.transport.status import abort_with, with_behaviour

SESSION_KEY = "exo-session"
PROOF_KEY = "exo-proof"
MAX_SESSIONS = 4096  # far above peers x connections; the longest unused goes first, its owner shakes hands again
HANDSHAKE = "/exo.v1.NodeService/Handshake"


def credentials(session: Session, method: str) -> grpc.aio.Metadata:
    """The metadata that every call of a session carries."""
    return grpc.aio.Metadata((SESSION_KEY, session.session_id), (PROOF_KEY, session.proof(method)))


class SessionTable:
    """Sessions by id. A restarted node's handshake ends the sessions of its former life."""

    def __init__(self, limit: int = MAX_SESSIONS) -> None:
        self._limit = limit
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Session) -> None:
        for old in list(self._sessions.values()):
            if old.peer.node_id == session.peer.node_id and old.peer.boot_id != session.peer.boot_id:
                del self._sessions[old.session_id]
        self._sessions[session.session_id] = session
        while len(self._sessions) > self._limit:
            self._sessions.popitem(last=False)

    def clear(self) -> None:
        """End every session (the key was replaced)."""
        self._sessions.clear()

    def check(self, metadata: Iterable[tuple[str, str | bytes]], method: str) -> Session:
        """The session of a call. Raises `Unauthorized` (gRPC UNAUTHENTICATED): the caller shakes hands again."""
        fields = dict(metadata)
        session = self._sessions.get(str(fields.get(SESSION_KEY, "")))
        proof = fields.get(PROOF_KEY, "")
        given = proof if isinstance(proof, bytes) else proof.encode()
        if session is None or not hmac.compare_digest(given, session.proof(method).encode()):
            raise Unauthorized("no valid session with this node: shake hands first", code="no_session")
        self._sessions.move_to_end(session.session_id)
        return session

    def require(self, context: grpc.aio.ServicerContext[Any, Any], method: str) -> str:
        """The node id of the caller of `method` ("/exo.v1.NodeService/LoadShard"), else `Unauthorized`."""
        return self.check(_pairs(context.invocation_metadata()), method).peer.node_id


class SessionInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses every call without a session, whatever the servicer does; only the handshake is open."""

    def __init__(self, table: SessionTable, open_methods: Iterable[str] = (HANDSHAKE,)) -> None:
        self._table = table
        self._open = frozenset(open_methods)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        details: Any = handler_call_details
        handler = await continuation(handler_call_details)
        if details.method in self._open or handler is None:
            return handler
        try:
            self._table.check(_pairs(details.invocation_metadata), details.method)
        except Unauthorized as error:
            return _refusal(handler, error)
        return handler


def _pairs(metadata: Any) -> list[tuple[str, str | bytes]]:
    return [(key, value) for key, value in metadata or ()]


def _refusal(handler: Any, error: Unauthorized) -> grpc.RpcMethodHandler[Any, Any]:
    async def refuse(_request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await abort_with(context, error)

    async def refuse_stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        yield await refuse(request, context)

    return with_behaviour(handler, refuse_stream if handler.response_streaming else refuse)
