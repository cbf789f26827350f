"""This node's deployments for its peers' calls (`relay_host.Lend`), within this node's limits and budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exo_node.routing.call import Call, Upstream, UpstreamError, images_of
from exo_node.routing.candidate_gate import CandidateGate
from exo_node.routing.deployment import Deployment, Price
from exo_node.routing.plan import Candidate
from exo_node.routing.policy.options import answer_room
from exo_node.routing.upstream.transcript import choices


class Lender:
    """`deployment` raises `UpstreamError` for an id that is not ours to lend; `price` is the deployment's."""

    def __init__(
        self,
        gate: CandidateGate,
        deployment: Callable[[str], Deployment],
        upstream: Callable[[Deployment], Upstream],
        price: Callable[[Deployment], Price | None],
    ) -> None:
        self._gate, self._deployment, self._upstream, self._price = gate, deployment, upstream, price

    async def lend(self, deployment_id: str, call: Call) -> Lent:
        """Raises `UpstreamError`: gone, another node's, or no room in its limits."""
        deployment = self._deployment(deployment_id)
        if deployment.node_id:  # a call goes from node to node once
            raise UpstreamError(f"{deployment_id} is another node's: ask that one", "unavailable")
        candidate = Candidate(
            backend=deployment.id,
            kind="deployment",
            provider=deployment.provider,
            model=deployment.upstream_model,
            price=self._price(deployment),
        )
        answer = answer_room(call.kind, call.max_tokens, choices(call))
        tokens = call.prompt_tokens + answer
        price, images = candidate.price, images_of(call)
        cost = None if price is None else price.cost(call.prompt_tokens, answer, images=images)
        if not await self._gate.acquire(candidate, tokens, cost):
            why, wait_s = self._gate.why_full(candidate, tokens, cost)
            raise UpstreamError(f"{deployment.id}: {why}", "rate_limited", retry_after=wait_s)
        return Lent(self._gate, candidate, self._upstream(deployment), tokens, images)


@dataclass(slots=True)
class Lent:
    """One deployment while a peer uses it (`relay_host.Lent`)."""

    _gate: CandidateGate
    _candidate: Candidate
    upstream: Upstream
    _tokens: int
    _images: int

    def settle(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> None:
        price = self._candidate.price
        cost = 0.0 if price is None else price.cost(prompt_tokens, completion_tokens, cached_tokens, self._images)
        self._gate.settle(self._candidate, self._tokens, prompt_tokens + completion_tokens, cost)

    def unused(self) -> None:
        self._gate.settle(self._candidate, self._tokens, 0, 0.0)
