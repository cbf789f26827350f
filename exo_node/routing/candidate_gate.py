"""The limits' gate as the adapter asks it: by candidate. A peer's deployment is limited by that peer."""

from __future__ import annotations

from collections.abc import Callable

from exo_node.limits.gate import Gate, Lease
from exo_node.routing.deployment import Deployment
from exo_node.routing.plan import Candidate


class CandidateGate:
    """`deployment` finds this node's deployment behind a candidate's `backend`; None for rings and peers."""

    def __init__(self, gate: Gate, deployment: Callable[[str], Deployment | None]) -> None:
        self._gate, self._deployment = gate, deployment
        self._leases: dict[str, list[tuple[int, Lease]]] = {}

    def room(self, deployment: Deployment) -> bool:
        """For `Candidate.room`. Does not wait."""
        return self._gate.room(deployment.id, deployment.rpm, deployment.tpm, provider=deployment.provider)

    async def acquire(self, candidate: Candidate, tokens: int, cost: float) -> bool:
        """Take one request and `tokens` of room, and keep `cost` USD free; False: no room now."""
        found = self._deployment(candidate.backend)
        if found is None:
            return True
        # An estimate with a generous answer in it must not be refused for good where the limit is small.
        amount = tokens if found.tpm is None else min(tokens, found.tpm)
        lease = await self._gate.acquire(
            found.id, found.rpm, found.tpm, amount, provider=found.provider, cost=cost or None
        )
        if lease is not None:
            self._leases.setdefault(candidate.backend, []).append((tokens, lease))
        return lease is not None

    def settle(self, candidate: Candidate, reserved: int, used: int, reserved_cost: float, cost: float) -> None:
        """What `acquire` took, and what was really used. Does not wait."""
        leases = self._leases.get(candidate.backend, [])
        for index, (tokens, lease) in enumerate(leases):  # any that took as much is as good as the one that was given
            if tokens == reserved:
                del leases[index]
                lease.settle(used, cost)
                break
        if not leases:
            self._leases.pop(candidate.backend, None)
