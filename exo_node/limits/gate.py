"""The gate before every request and every external call: keys' models, rates, budgets. Refuses before, settles after.

Without Redis it decides by itself, without waiting. With Redis every node asks there and also keeps its own part in
memory: that is what holds while Redis is away, and what Redis is told when it comes back.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from exo_node.errors import BudgetExceeded, RateLimited
from exo_node.limits.api_keys import ApiKeys
from exo_node.limits.budgets import (
    NANO,
    Budget,
    BudgetRule,
    Ledger,
    Overdrawn,
    SubjectKind,
    applying,
    hashed,
    period_key,
    seconds_left,
    sums_scope,
)
from exo_node.limits.rates import MINUTE_S, Limit, Rate, Refusal, Windows
from exo_node.limits.redis import RESTORED_AT_ONCE, SharedRedis

OWN_ECHO_S = 1.0  # what Redis says of a cooldown that this node has told it may be later by the way there and back
LEARN_S = 5.0  # how often the sums of the machine's other nodes are read when there is no Redis


class SpentRows(Protocol):
    """Where budgets' sums are kept (the store)."""

    async def spent(self, periods: Iterable[str]) -> list[tuple[str, str, str, str, float]]: ...

    def save_spent(self, kind: str, subject: str, period: str, node: str, usd: float) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The configuration's limits. `models` by the asked name, `user` for each user by himself."""

    router: Rate = field(default_factory=Rate)
    models: Mapping[str, Rate] = field(default_factory=dict)
    user: Rate = field(default_factory=Rate)
    budgets: tuple[BudgetRule, ...] = ()


@dataclass(slots=True)
class Admission:
    """What a request (or, as a `Lease`, an external call) has taken, until it is settled once."""

    id: str
    scopes: tuple[str, ...]
    budgets: tuple[Budget, ...]
    subjects: tuple[tuple[SubjectKind, str], ...]  # who pays
    wall: float
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Cooling:
    """How long a backend is left alone; `elsewhere`: because of another node's failures (or an earlier start's)."""

    left_s: float
    elsewhere: bool


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
        self._node = f"{node}/{uuid.uuid4().hex[:8]}"  # each start counts for itself: it need not know what was before
        self._keys = keys
        self._sums = sums
        self.rules = rules or Rules()
        self.redis = redis
        self._clock, self._wall = clock, wall
        self._windows = Windows()
        self._ledger = Ledger(node)
        self._learned: float | None = None
        self._full: dict[str, float] = {}  # scope -> until when Redis said that it has no room
        self._open: dict[str, float] = {}  # cooldowns of this node, by the clock
        if redis is not None:
            redis.missed = self._missed

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
        self.check_model(key_id, model)
        key = self._keys.info(key_id)
        rules = self.rules
        if key is None and not (rules.router or rules.models or rules.budgets or (user and rules.user)):
            return Admission("", (), (), _payers(key_id, user), self._wall())  # nothing is limited
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
        taken = await self._take(limits, budgets, _payers(key_id, user), prompt_tokens, max_tokens or 0, predicted_cost)
        if isinstance(taken, Refusal):
            raise _rate_limited(taken, prompt_tokens + (max_tokens or 0))
        if isinstance(taken, Overdrawn):
            raise _budget_exceeded(taken, predicted_cost)
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
        self._windows.settle(admission.scopes, admission.id, tokens)
        self._ledger.release(admission.budgets, admission.id, admission.wall)
        reserved = [budget.scope(admission.wall) for budget in admission.budgets]
        if self.redis is not None and (admission.scopes or reserved):
            self.redis.tell(["settle", admission.id, tokens, list(admission.scopes), reserved])
        if cost > 0:
            self._spend(admission, cost)

    def release(self, admission: Admission) -> None:
        """Nothing was done for it: give everything back. Does not wait."""
        if admission.settled:
            return
        admission.settled = True
        self._windows.release(admission.scopes, admission.id)
        self._ledger.release(admission.budgets, admission.id, admission.wall)
        if self.redis is not None and (admission.scopes or admission.budgets):
            reserved = [budget.scope(admission.wall) for budget in admission.budgets]
            self.redis.tell(["release", admission.id, list(admission.scopes), reserved])

    # -- deployments

    async def acquire(
        self,
        deployment_id: str,
        rpm: int | None,
        tpm: int | None,
        tokens: int,
        *,
        provider: str = "",
        cost: float | None = None,
    ) -> Lease | None:
        """Room for one call at a deployment and in its provider's budget; None where there is none now."""
        if rpm is None and tpm is None and not self.rules.budgets:
            return Lease(self, Admission("", (), (), (("provider", provider),), self._wall()))
        limits, budgets = self._of_deployment(deployment_id, rpm, tpm, provider)
        taken = await self._take(limits, budgets, (("provider", provider),), tokens, 0, cost)
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

    def room_in(self, deployment_id: str, rpm: int | None, tpm: int | None, *, provider: str = "") -> float:
        """Seconds until `acquire` would probably succeed; 0.0: now. Does not wait."""
        if rpm is None and tpm is None and not self.rules.budgets:
            return 0.0
        now = self._clock()
        limits, budgets = self._of_deployment(deployment_id, rpm, tpm, provider)
        waits = [self._full[limit.scope] - now for limit in limits if self._full.get(limit.scope, now) > now]
        refusal = self._windows.refusal(limits, 1, now)
        if refusal is not None:
            waits.append(refusal.wait_s or MINUTE_S)
        overdrawn = self._ledger.overdrawn(budgets, None, now, self._wall())
        if overdrawn is not None:
            waits.append(overdrawn.wait_s)
        return max(waits, default=0.0)

    # -- cooldowns

    def mark_open(self, backend: str, for_s: float) -> None:
        """A backend is left alone for that long, by every node that shares Redis. Does not wait."""
        self._open[backend] = self._clock() + for_s
        if self.redis is not None:
            self.redis.tell(["cool", backend, round(for_s * 1e6)])

    def opened(self) -> dict[str, Cooling]:
        """Backends that are left alone, by this or another node."""
        if not self._open and self.redis is None:
            return {}
        now = self._clock()
        self._open = {name: until for name, until in self._open.items() if until > now}
        found = {name: Cooling(until - now, elsewhere=False) for name, until in self._open.items()}
        if self.redis is not None:
            shared_now = time.monotonic()
            for name, until in self.redis.opened().items():
                left, own = until - shared_now, found.get(name)
                if own is None or left > own.left_s + OWN_ECHO_S:
                    found[name] = Cooling(left, elsewhere=True)
        return found

    # -- the rest

    def used(self, budget: Budget) -> float:
        """USD spent and reserved, as far as this node knows."""
        return self._ledger.used(budget, self._clock(), self._wall())

    def status(self) -> dict[str, Any]:
        """For status pages."""
        return {"redis": None if self.redis is None else self.redis.status(), "shared": self._shares()}

    async def close(self) -> None:
        if self.redis is not None:
            await self.redis.close()

    def _shares(self) -> bool:
        return self.redis is not None and self.redis.up

    def _of_deployment(
        self, deployment_id: str, rpm: int | None, tpm: int | None, provider: str
    ) -> tuple[list[Limit], list[Budget]]:
        limits = [Limit(f"deployment:{deployment_id}", rpm, tpm, deployment_id)]
        return limits, applying(self.rules.budgets, {"provider": (provider, f"provider {provider!r}")})

    async def _take(
        self,
        limits: Iterable[Limit],
        budgets: list[Budget],
        payers: tuple[tuple[SubjectKind, str], ...],
        tokens: int,
        more_tokens: int,
        cost: float | None,
    ) -> Admission | Refusal | Overdrawn:
        """Take from all or from none. `more_tokens` may be cut down to what the smallest limit lets through at all."""
        held = [limit for limit in limits if limit]
        smallest = min((limit.tokens for limit in held if limit.tokens is not None), default=None)
        amount = tokens + more_tokens
        if smallest is not None and tokens <= smallest:
            amount = min(amount, smallest)
        if budgets:
            await self._learn()
        ident = uuid.uuid4().hex
        wall = self._wall()
        admission = Admission(ident, tuple(limit.scope for limit in held), tuple(budgets), payers, wall)
        decided = False
        if self.redis is not None and (held or budgets):
            try:
                answer = await self.redis.call(self._operation(ident, amount, held, budgets, cost, wall))
            except BaseException:  # the client has gone in the middle of the question
                self.redis.tell(["release", ident, list(admission.scopes), [b.scope(wall) for b in budgets]])
                raise
            if answer:
                return self._refused(answer, held, budgets, wall)
            decided = answer is not None
        now = self._clock()
        if not decided:
            refusal = self._windows.refusal(held, amount, now)
            if refusal is not None:
                return refusal
            overdrawn = self._ledger.overdrawn(budgets, cost, now, wall)
            if overdrawn is not None:
                return overdrawn
        self._windows.add(admission.scopes, ident, amount, now)
        if cost:
            self._ledger.reserve(budgets, ident, cost, now, wall)
        return admission

    def _operation(
        self, ident: str, tokens: int, limits: list[Limit], budgets: list[Budget], cost: float | None, wall: float
    ) -> list[Any]:
        rates = [
            [
                limit.scope,
                -1 if limit.requests is None else limit.requests,
                -1 if limit.tokens is None else limit.tokens,
            ]
            for limit in limits
        ]
        amount = -1 if cost is None else round(cost * NANO)
        money = [[b.scope(wall), b.scope(wall), round(b.limit * NANO), amount] for b in budgets]
        return ["take", ident, tokens, rates, money]

    def _refused(
        self, answer: list[Any], limits: list[Limit], budgets: list[Budget], wall: float
    ) -> Refusal | Overdrawn:
        if answer[0] == "rate":
            wait = None if answer[3] < 0 else answer[3] / 1e6
            return Refusal(limits[answer[1]], answer[2], wait)
        budget = budgets[answer[1]]
        return Overdrawn(budget, answer[2] / NANO, seconds_left(budget.period, wall))

    async def _learn(self) -> None:
        """Read the sums at first, and again where other nodes write theirs beside ours. Raises `StoreError`."""
        now = self._clock()
        if self._learned is None or (not self._shares() and now - self._learned > LEARN_S):
            wall = self._wall()
            self._ledger.forget(wall)
            self._ledger.learn(await self._sums.spent([period_key("day", wall), period_key("month", wall)]))
            if self._learned is None and self.redis is not None:
                self.redis.tell(["spent", self._known_sums()])
            self._learned = now

    def _spend(self, admission: Admission, cost: float) -> None:
        wall = self._wall()
        rows = []
        for kind, subject in admission.subjects:
            for period, usd in self._ledger.spend(kind, subject, cost, wall):
                self._sums.save_spent(kind, subject, period, self._node, usd)
                rows.append([sums_scope(kind, subject, period), self._node, round(usd * NANO)])
        if self.redis is not None:
            self.redis.tell(["spent", rows])

    def _known_sums(self) -> list[list[Any]]:
        """This machine's sums, of earlier starts too: a Redis that was emptied is told them again."""
        return [
            [sums_scope(kind, subject, period), node, round(usd * NANO)]
            for kind, subject, period, node, usd in self._ledger.sums()
        ]

    def _missed(self) -> list[list[Any]]:
        """What a Redis that was away must be told: this node's part of every window, and its sums."""
        operations: list[list[Any]] = [["spent", self._known_sums()]]
        for scope, entries in self._windows.entries(self._clock()):
            rows = [[ident, round(age * 1e6), tokens] for ident, age, tokens in entries]
            for start in range(0, len(rows), RESTORED_AT_ONCE):
                operations.append(["restore", scope, rows[start : start + RESTORED_AT_ONCE]])
        for name, left in ((name, until - self._clock()) for name, until in self._open.items()):
            if left > 0:
                operations.append(["cool", name, round(left * 1e6)])
        return operations


def _payers(key_id: str, user: str) -> tuple[tuple[SubjectKind, str], ...]:
    """Whose sums a request counts in."""
    found: list[tuple[SubjectKind, str]] = [("all", "")]
    if key_id:
        found.append(("key", key_id))
    if user:
        found.append(("user", user))
    return tuple(found)


def _rate_limited(refusal: Refusal, tokens: int) -> RateLimited:
    limit = refusal.limit
    most = limit.requests if refusal.what == "requests" else limit.tokens
    said = f"{limit.label} allows {most} {refusal.what} per minute"
    if refusal.wait_s is None:
        why = f": this request alone asks for {tokens}" if refusal.what == "tokens" else ""
        return RateLimited(f"{said}{why}", code=f"{refusal.what}_rate_limit_exceeded")
    wait = max(refusal.wait_s, 0.001)
    return RateLimited(
        f"{said}; there is room again in {wait:.1f} s", code=f"{refusal.what}_rate_limit_exceeded", retry_after=wait
    )


def _budget_exceeded(overdrawn: Overdrawn, cost: float | None) -> BudgetExceeded:
    budget = overdrawn.budget
    asked = f", and this request would cost about {cost:.6f}" if cost else ""
    return BudgetExceeded(
        f"the budget of {budget.label} is {budget.limit:g} USD per {budget.period}: {overdrawn.used:.6f} USD are spent "
        f"or in use{asked}",
        retry_after=overdrawn.wait_s,
    )
