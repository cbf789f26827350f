"""The limits' gate before every call: what a call may ask for, what it takes, and what it has used in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from exo_node.errors import BudgetExceeded, ExoError
from exo_node.limits.admission import Admission
from exo_node.limits.gate import Gate
from exo_node.routing.call import Call, CallRecord, images_of
from exo_node.routing.catalog.names import RING
from exo_node.routing.catalog.pricing import Priced
from exo_node.routing.policy.options import answer_room


class Admissions:
    """One admission per call in flight. `has_budget`: whether an API key has a budget of its own; `price` finds a
    model's price; `refused` hears the code of every refusal."""

    def __init__(
        self,
        gate: Gate,
        has_budget: Callable[[str], bool],
        price: Callable[[str], Priced | None],
        refused: Callable[[str], None],
    ) -> None:
        self._gate, self._has_budget, self._price, self._refused = gate, has_budget, price, refused
        self._open: dict[str, Admission] = {}

    def check_models(self, call: Call) -> None:
        """Raises `ModelNotAllowed`, also for a model that the request wants as its fallback.

        With a provider beside it a name means that provider's model: a key for "demo" is none for "openai/demo".
        """
        provider = call.wishes.provider
        for model in (call.model, *(call.wishes.fallbacks or ())):
            self._gate.check_model(call.caller.key_id, model)
            if provider is not None and provider not in RING and not model.startswith(f"{provider}/"):
                self._gate.check_model(call.caller.key_id, f"{provider}/{model}")

    async def admit(self, call: Call) -> Call:
        """Take what the call will probably need; the call as it may be served. Raises `RateLimited`, `BudgetExceeded`,
        `ModelNotAllowed`.

        A model that costs nothing is served without any money; its fallbacks and equivalents may cost some.
        """
        cost = self._predicted(call)
        try:
            try:
                admission = await self._take(call, cost or None)
            except BudgetExceeded as error:
                if cost != 0:
                    raise
                admission = await self._take(call, 0.0)
                call = replace(call, broke_for_s=error.retry_after)
        except ExoError as error:
            self._refused(error.code or "")
            raise
        self._open[call.id] = admission
        return call

    async def _take(self, call: Call, cost: float | None) -> Admission:
        return await self._gate.admit(
            call.caller.key_id,
            call.caller.user,
            call.model,
            call.prompt_tokens,
            predicted_cost=cost,
            max_tokens=call.max_tokens,
        )

    def settled(self, record: CallRecord) -> None:
        """A sink: what the call has really used."""
        admission = self._open.pop(record.id, None)
        if admission is not None:
            used = record.usage.prompt_tokens + record.usage.completion_tokens
            self._gate.settle(admission, used, record.cost)

    def forget(self, call_id: str) -> None:
        """The call has failed: what no record has settled is given back."""
        admission = self._open.pop(call_id, None)
        if admission is not None:
            self._gate.release(admission)

    def _predicted(self, call: Call) -> float | None:
        """USD, for budgets; None: not known. 0 where there is no budget to keep."""
        if not self._gate.rules.budgets and not self._has_budget(call.caller.key_id):
            return 0.0
        priced = self._price(call.model)
        if priced is None:
            return None
        answer = answer_room(call.kind, call.max_tokens, call.answers)
        return priced.price.cost(call.prompt_tokens, answer, images=images_of(call))
