"""The limits' gate as the adapter asks it: by candidate. A peer's deployment is limited by that peer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from exo_node.errors import RateLimited
from exo_node.limits.gate import Gate, Lease
from exo_node.routing.deployment import Deployment
from exo_node.routing.plan import Candidate


class CandidateGate:
    """`deployment` finds this node's deployment behind a candidate's `backend`; None for rings and peers."""

    def __init__(self, gate: Gate, deployment: Callable[[str], Deployment | None]) -> None:
        self._gate, self._deployment = gate, deployment
        self._leases: dict[str, list[tuple[int, str, Lease]]] = {}  # by backend: tokens, whose limits, the lease
        self._running: Counter[str] = Counter()  # what was taken and is not settled, by whose limits it counts in

    async def acquire(self, candidate: Candidate, tokens: int, cost: float | None) -> bool:
        """Take one request and `tokens` of room, and keep `cost` USD free (None: not known, 0: it is free).

        False: no room now, or as many requests as the deployment takes at once (`max_parallel_requests`) are running.
        """
        found = self._deployment(candidate.backend)
        if found is None:
            return True
        limited = found.limited_as
        if found.capacity is not None and self._running[limited] >= found.capacity:
            return False
        self._running[limited] += 1  # before the wait: others ask meanwhile
        lease = None
        try:
            lease = await self._gate.acquire(found, _amount(found, tokens), cost)
        finally:
            if lease is None:
                self._left(limited)
        if lease is not None:
            self._leases.setdefault(candidate.backend, []).append((tokens, limited, lease))
        return lease is not None

    def why_full(self, candidate: Candidate, tokens: int, cost: float | None) -> tuple[str, float | None]:
        """What `acquire` found no room in, and the seconds until there probably is some; None: not known."""
        found = self._deployment(candidate.backend)
        if found is None:
            return "it is gone", None
        if found.capacity is not None and self._running[found.limited_as] >= found.capacity:
            return f"as many requests run as it takes at once (max_parallel_requests: {found.capacity})", None
        no = self._gate.refusal(found, _amount(found, tokens), cost)
        if no is None:  # Redis knows of more than this node
            return "its rate limit or budget is used up", self._gate.room_in(found, cost=cost) or None
        # Who asks need not know how much money its owner has for it.
        return (no.message if isinstance(no, RateLimited) else "its budget has no room for it"), no.retry_after

    def settle(self, candidate: Candidate, reserved: int, used: int, cost: float) -> None:
        """What `acquire` took, and what was really used. Does not wait."""
        leases = self._leases.get(candidate.backend, [])
        for index, (tokens, limited, lease) in enumerate(leases):  # any that took as much is as good as the one given
            if tokens == reserved:
                del leases[index]
                lease.settle(used, cost)
                self._left(limited)
                break
        if not leases:
            self._leases.pop(candidate.backend, None)

    def _left(self, limited: str) -> None:
        self._running[limited] -= 1
        if not self._running[limited]:
            del self._running[limited]


def _amount(deployment: Deployment, tokens: int) -> int:
    """An estimate with a generous answer in it must not be refused for good where the limit is small."""
    return tokens if deployment.tpm is None else min(tokens, deployment.tpm)
