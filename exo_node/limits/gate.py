"""The gate before every request and every external call: keys' models, rates, budgets. Refuses before, settles after.

Without Redis it decides by itself, without waiting. With Redis every node asks there and also keeps its own part in
memory: that is what holds while Redis is away, and what Redis is told when it comes back.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from exo_node.errors import BudgetExceeded, RateLimited
from exo_node.limits import operations
from exo_node.limits.admission import Admission, Limited, Rules, budget_exceeded, payers, rate_limited
from exo_node.limits.api_keys import ApiKeys
from exo_node.limits.budgets import Budget, Overdrawn, SubjectKind, applying, hashed, tightest
from exo_node.limits.concurrency import Running
from exo_node.limits.cooldowns import Cooldowns, Cooling
from exo_node.limits.rates import MINUTE_S, Limit, Refusal, Windows
from exo_node.limits.redis import Operation, SharedRedis
from exo_node.limits.sums import SpentRows, Sums


@dataclass(frozen=True, slots=True)
class Lease:
    """Room taken at a deployment. Settle or release it once; what comes after is ignored."""

    gate: Gate
    admission: Admission

    def settle(self, tokens: int, cost: float = 0.0) -> None:
        """Tokens and USD really used."""
        self.gate.settle(self.admission, tokens, cost)

    def release(self) -> None:
        """Nothing was sent: give everything back."""
        self.gate.release(self.admission)


class Gate:
    """One per node. `node` names it among those that share the store or Redis."""

    def __init__(
        self,
        *,
        node: str,
        keys: ApiKeys,
        sums: SpentRows,
        rules: Rules | None = None,
        redis: SharedRedis | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._sums = Sums(node, sums, redis, clock, wall)
        self._cooldowns = Cooldowns(redis, clock)
        self.rules = rules or Rules()
        self.redis = redis
        self._clock, self._wall = clock, wall
        self._windows = Windows()
        self._running = Running()
        self._full: dict[str, float] = {}  # scope -> until when Redis said that it has no room
        if redis is not None:
            redis.missed = self._missed

    async def start(self) -> None:
        """Say hello to Redis, with what this machine has spent before. Raises `StoreError`."""
        if self.redis is not None:
            await self._sums.learn()
            await self.redis.start()

    # -- requests

    async def admit(
        self,
        key_id: str,
        user: str,
        model: str,
        prompt_tokens: int,
        predicted_cost: float | None = None,
        max_tokens: int | None = None,
    ) -> Admission:
        """Let a request in, or raise `RateLimited`, `BudgetExceeded` or `ModelNotAllowed`; nothing is taken then.

        `predicted_cost` USD; None: not known yet (there must be something left of every budget), 0: it costs nothing.
        """
        key = self._keys.info(key_id)
        if key is not None:
            key.check_model(model)
        rules = self.rules
        if key is None and not (rules.router or rules.models or rules.budgets or (user and rules.user)):
            return Admission("", (), (), payers(key_id, user), self._wall())  # nothing is limited
        limits = [Limit("router", self.rules.router.rpm, self.rules.router.tpm, "this node")]
        if model in self.rules.models:
            rate = self.rules.models[model]
            limits.append(Limit(f"model:{model}", rate.rpm, rate.tpm, f"model {model!r}"))
        if key is not None:
            limits.append(Limit(f"key:{key.id}", key.rpm, key.tpm, key.label))
        if user:
            limits.append(Limit(f"user:{hashed(user)}", self.rules.user.rpm, self.rules.user.tpm, "this user"))
            if key is not None:
                scope = f"user:{key.id}:{hashed(user)}"
                limits.append(Limit(scope, key.user_rpm, key.user_tpm, f"this user of {key.label}"))
        subjects: dict[SubjectKind, tuple[str, str]] = {
            "all": ("", "this node"),
            "key": (key_id, key.label if key is not None else "this API key"),
            "user": (user, f"user {user[:40]!r}"),
        }
        budgets = applying(self.rules.budgets, subjects)
        if key is not None and key.budget is not None:
            budgets.append(Budget("key", key.id, key.budget, key.period, key.label))
        ident = uuid.uuid4().hex
        if key is not None:
            self._running.enter(key, ident, self._clock())
        try:
            taken = await self._take(
                limits, budgets, payers(key_id, user), prompt_tokens, max_tokens or 0, predicted_cost, ident
            )
            if isinstance(taken, Refusal):
                raise rate_limited(taken, prompt_tokens + (max_tokens or 0))
            if isinstance(taken, Overdrawn):
                raise budget_exceeded(taken, predicted_cost)
        except BaseException:  # the client may go while Redis is asked
            self._running.leave(ident, self._clock())
            raise
        return taken

    def check_model(self, key_id: str, model: str) -> None:
        """Raises `ModelNotAllowed`; before the response cache, which would answer anybody."""
        key = self._keys.info(key_id)
        if key is not None:
            key.check_model(model)

    def settle(self, admission: Admission, tokens: int, cost: float) -> None:
        """What the request has really used. Does not wait; a second time has no effect."""
        if admission.settled:
            return
        admission.settled = True
        self._running.leave(admission.id, self._clock())
        if admission.scopes or admission.budgets:
            self._windows.settle(admission.scopes, admission.id, tokens)
            self._sums.ledger.release(admission.budgets, admission.id, admission.wall)
            if self.redis is not None:
                self.redis.tell(operations.settle(admission, tokens), keep=admission.asked)
        if cost > 0:
            self._sums.spend(admission.subjects, cost)

    def release(self, admission: Admission) -> None:
        """Nothing was done for it: give everything back. Does not wait."""
        if admission.settled:
            return
        admission.settled = True
        self._running.leave(admission.id, self._clock())
        if admission.scopes or admission.budgets:
            self._windows.release(admission.scopes, admission.id)
            self._sums.ledger.release(admission.budgets, admission.id, admission.wall)
            self._give_back(admission)

    # -- deployments

    async def acquire(self, deployment: Limited, tokens: int, cost: float | None = None) -> Lease | None:
        """Room for one call at a deployment, in its own budget and its provider's; None where there is none now.

        `cost` USD; None: not known.
        """
        payers: tuple[tuple[SubjectKind, str], ...] = (("provider", deployment.provider),)
        if (own := deployment.budget) is not None:
            payers += ((own.kind, own.subject),)
        elif self._is_free_of_limits(deployment):
            return Lease(self, Admission("", (), (), payers, self._wall()))
        limits, budgets = self._of_deployment(deployment)
        taken = await self._take(limits, budgets, payers, tokens, 0, cost, uuid.uuid4().hex)
        if isinstance(taken, Admission):
            return Lease(self, taken)
        if (
            self.redis is not None
            and isinstance(taken, Refusal)
            and taken.what == "requests"
            and taken.wait_s is not None
        ):
            self._full[taken.limit.scope] = self._clock() + taken.wait_s
        return None

    def room_in(self, deployment: Limited, tokens: int = 1, cost: float | None = None) -> float:
        """Seconds until `acquire` would probably succeed; 0.0: now. Does not wait."""
        if deployment.budget is None and self._is_free_of_limits(deployment):
            return 0.0
        no = self.refusal(deployment, tokens, cost)
        told_s = self._full.get(f"deployment:{deployment.limited_as}", 0.0) - self._clock()
        return max(0.0, told_s, 0.0 if no is None else no.retry_after or MINUTE_S)

    def refusal(self, deployment: Limited, tokens: int, cost: float | None) -> RateLimited | BudgetExceeded | None:
        """Why `acquire` would find no room now, as far as this node knows. Does not wait."""
        now, wall = self._clock(), self._wall()
        limits, budgets = self._of_deployment(deployment)
        refused = self._windows.refusal(limits, tokens, now)
        if refused is not None:
            return rate_limited(refused, tokens)
        overdrawn = self._sums.ledger.overdrawn(budgets, cost, now, wall)
        return None if overdrawn is None else budget_exceeded(overdrawn, cost)

    # -- cooldowns

    def mark_open(self, backend: str, for_s: float) -> None:
        """A backend is left alone for that long, by every node that shares Redis. Does not wait."""
        self._cooldowns.mark(backend, for_s)

    def mark_closed(self, backend: str) -> None:
        """It may be asked again, by every node that shares Redis. Does not wait."""
        self._cooldowns.forget(backend)

    def opened(self) -> dict[str, Cooling]:
        """Backends that are left alone, by this or another node."""
        return self._cooldowns.opened()

    # -- the rest

    def used(self, budget: Budget) -> float:
        """USD spent and reserved, as far as this node knows."""
        return self._sums.ledger.used(budget, self._clock(), self._wall())

    def status(self) -> dict[str, Any]:
        """For status pages."""
        shared = self.redis is not None and self.redis.up
        return {"redis": None if self.redis is None else self.redis.status(), "shared": shared}

    async def close(self) -> None:
        """Write what is left, and say it to Redis."""
        self._sums.save()
        if self.redis is not None:
            await self.redis.close()

    def _is_free_of_limits(self, deployment: Limited) -> bool:
        """Whether there is nothing to ask for but, perhaps, its own budget."""
        return deployment.rpm is None and deployment.tpm is None and not self.rules.budgets

    def _of_deployment(self, deployment: Limited) -> tuple[list[Limit], list[Budget]]:
        name, provider, own = deployment.limited_as, deployment.provider, deployment.budget
        limits = [Limit(f"deployment:{name}", deployment.rpm, deployment.tpm, name)]
        budgets = applying(self.rules.budgets, {"provider": (provider, f"provider {provider!r}")})
        return limits, budgets if own is None else [*budgets, own]

    async def _take(
        self,
        limits: Iterable[Limit],
        budgets: list[Budget],
        subjects: tuple[tuple[SubjectKind, str], ...],
        tokens: int,
        more_tokens: int,
        cost: float | None,
        ident: str,
    ) -> Admission | Refusal | Overdrawn:
        """Take from all or from none. `more_tokens` may be cut down to what the smallest limit lets through at all."""
        held, budgets = [limit for limit in limits if limit], tightest(budgets)
        smallest = min((limit.tokens for limit in held if limit.tokens is not None), default=None)
        amount = tokens + more_tokens
        if smallest is not None and tokens <= smallest:
            amount = min(amount, smallest)
        if budgets:
            await self._sums.learn()
        wall = self._wall()
        admission = Admission(ident, tuple(limit.scope for limit in held), tuple(budgets), subjects, wall)
        decided = False
        if self.redis is not None and (held or budgets):
            admission.asked = self.redis.up
            try:
                answer = await self.redis.call(operations.take(ident, amount, held, budgets, cost, wall))
            except BaseException:  # the client has gone in the middle of the question
                self._give_back(admission)
                raise
            if answer is not None:
                for budget, usd in operations.spent_by_all(answer, budgets):
                    self._sums.ledger.hear(budget, usd, wall)
                if (no := operations.refused(answer, held, budgets, wall)) is not None:
                    return no
            decided = answer is not None
        now = self._clock()
        if not decided:
            refused = self._windows.refusal(held, amount, now) or self._sums.ledger.overdrawn(budgets, cost, now, wall)
            if refused is not None:
                self._give_back(admission)  # a Redis that was only slow may have taken it
                return refused
        self._windows.add(admission.scopes, ident, amount, now)
        if cost:
            self._sums.ledger.reserve(budgets, ident, cost, now, wall)
        return admission

    def _give_back(self, admission: Admission) -> None:
        """Tell Redis that nothing was done for it."""
        if self.redis is not None:
            self.redis.tell(operations.release(admission), keep=admission.asked)

    def _missed(self) -> list[Operation]:
        """What a Redis that was away must be told: this node's part of every window, its sums, its cooldowns.

        The sums are all this machine's, of earlier starts too: a Redis that was emptied is told them again.
        """
        windows = operations.restore(self._windows.entries(self._clock()))
        return [operations.spent(self._sums.ledger.sums()), *windows, *self._cooldowns.missed()]
