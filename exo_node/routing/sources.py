"""The adapter's `Sources`: the registry's candidates with what is known of them now, and the way to ask each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import Any

from exo_node.errors import PeerUnavailable
from exo_node.limits.cooldowns import Cooling
from exo_node.limits.gate import Gate
from exo_node.routing.call import Attempt, Batch, Call, Upstream, UpstreamError, Whole
from exo_node.routing.catalog.registry import Registry
from exo_node.routing.deployment import Deployment
from exo_node.routing.plan import Candidate
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.passthrough import PassThrough
from exo_node.routing.upstream.peer_upstream import Peer, PeerUpstream
from exo_node.routing.upstream.service import LiteLLMService
from exo_node.routing.upstream.sidecar_upstream import SidecarUpstream

REMEMBERED = 1024  # backends; more are asked only by someone who tries names out
_AT_NODE = "@"  # "ID@NODE": a peer's deployment
_TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call")


class NodeSources:
    """`ring` asks the local ring; `peer` gives the connection to a node (raises `PeerUnavailable`)."""

    def __init__(
        self,
        *,
        registry: Registry,
        gate: Gate,
        connections: Connections,
        service: LiteLLMService,
        ring: Upstream,
        peer: Callable[[str], Peer],
    ) -> None:
        self._registry = registry
        self._gate = gate
        self._connections = connections
        self._service = service
        self._ring = ring
        self._peer = peer
        self._made: dict[str, tuple[Deployment, Upstream]] = {}  # a pass-through remembers addresses and headers

    async def candidates(self, call: Call) -> list[Candidate]:
        """See `ports.Sources.candidates`."""
        found = self._registry.candidates(call)
        cooling = self._gate.opened()
        if cooling and all(one.rejected or one.backend in cooling for one in found):
            cooling = {}  # better a backend that failed elsewhere than none
        for i, one in enumerate(found):
            if one.kind == "ring":
                continue
            if one.backend in cooling and not one.rejected:
                found[i] = replace(one, rejected=_left_alone(cooling[one.backend]))
            elif call.broke_for_s is not None and not one.is_free:
                found[i] = replace(one, room=False, room_in_s=call.broke_for_s)
            elif one.kind == "deployment" and (wait_s := self._room_in(one)) > 0:
                found[i] = replace(one, room=False, room_in_s=wait_s)
        return found

    def upstream(self, candidate: Candidate) -> Upstream:
        """See `ports.Sources.upstream`."""
        if candidate.kind == "ring":
            return RingDefaults(self._ring, self._registry.config.defaults)
        if candidate.kind == "peer":
            return self._of_peer(candidate)
        deployment = self._registry.deployment(candidate.backend)
        made = self._made.get(candidate.backend)
        if made is None or made[0] is not deployment:
            upstream = self.of_deployment(deployment)
            if deployment.transport == "passthrough" and "tools" not in candidate.capabilities:
                told = replace(deployment, capabilities=candidate.capabilities)
                upstream = PromptedTools(upstream, SidecarUpstream(self._service, self._connections, told))
            made = (deployment, upstream)
            if len(self._made) >= REMEMBERED:
                self._made.clear()
            self._made[candidate.backend] = made
        return made[1]

    def of_deployment(self, deployment: Deployment) -> Upstream:
        """One of this node's own, asked directly or through LiteLLM."""
        if deployment.transport == "passthrough":
            return PassThrough(self._connections, deployment)
        return SidecarUpstream(self._service, self._connections, deployment)

    def _of_peer(self, candidate: Candidate) -> Upstream:
        deployment_id = candidate.backend.rpartition(_AT_NODE)[0]
        try:
            peer = self._peer(candidate.node_id)
        except PeerUnavailable as error:
            raise UpstreamError(error.message, "unavailable") from error
        return PeerUpstream(peer, deployment_id, candidate.backend)

    def _room_in(self, candidate: Candidate) -> float:
        """Seconds until its limits have room."""
        try:
            found = self._registry.deployment(candidate.backend)
        except UpstreamError:
            return 0.0  # gone between the two looks: asking it says so
        return self._gate.room_in(found, cost=0.0 if candidate.is_free else None)


class PromptedTools:
    """A backend without tools of its own: the sidecar asks for them by prompt.

    A call that offers tools and needs none (`tool_choice: none`) goes there without them.
    """

    def __init__(self, direct: Upstream, prompting: SidecarUpstream) -> None:
        self._direct = direct
        self._prompting = prompting

    async def ready(self, call: Call) -> None:
        if self._for(call) is self._prompting:
            await self._prompting.ready(call)

    def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]:
        return self._for(attempt.call).stream(_fitting(attempt))

    async def whole(self, attempt: Attempt) -> Whole:
        return await self._for(attempt.call).whole(_fitting(attempt))

    def _for(self, call: Call) -> Upstream:
        return self._prompting if "tools" in call.needs else self._direct


def _left_alone(cooling: Cooling) -> str:
    where = "at a node that shares our Redis" if cooling.elsewhere else "here lately"
    return f"it failed {where} and is left alone for {cooling.left_s:.0f} s more"


def _fitting(attempt: Attempt) -> Attempt:
    call = attempt.call
    if "tools" in call.needs or not any(name in call.body for name in _TOOL_FIELDS):
        return attempt
    body = {name: value for name, value in call.body.items() if name not in _TOOL_FIELDS}
    return replace(attempt, call=replace(call, body=body))


class RingDefaults:
    """The ring with the configuration's request defaults; temperature is the model's own first (local_backend)."""

    def __init__(self, ring: Upstream, defaults: Mapping[str, Any]) -> None:
        self._ring = ring
        self._defaults = {
            name: value for name, value in defaults.items() if name not in ("model", "temperature", "stream")
        }

    def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]:
        return self._ring.stream(self._filled(attempt))

    async def whole(self, attempt: Attempt) -> Whole:
        return await self._ring.whole(self._filled(attempt))

    def _filled(self, attempt: Attempt) -> Attempt:
        call = attempt.call
        missing = {name: value for name, value in self._defaults.items() if call.body.get(name) is None}
        if not missing or call.kind != "chat":
            return attempt
        return replace(attempt, call=replace(call, body={**call.body, **missing}))
