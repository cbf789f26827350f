"""What a finished call leaves in the spend log, in the metrics and in shared cooldowns. Pure but for telling them."""

from __future__ import annotations

import time

from exo_node.limits.gate import Gate
from exo_node.metrics import Metrics
from exo_node.routing.call import AttemptRecord, CallRecord
from exo_node.routing.health.breaker import Breaker
from exo_node.store import SpendRow


def spend_row(record: CallRecord, node: str) -> SpendRow:
    """The row of a call: who, what, how much; no prompt, no answer, no message."""
    return SpendRow(
        id=record.id,
        at=record.started,
        kind=record.kind,
        model=_storable(record.model),
        served_model=record.served_model,
        backend=record.backend,
        provider=record.provider,
        node=node,
        key_id=record.caller.key_id,
        user=_storable(record.caller.user),
        stream=record.stream,
        status=record.status,
        error_code=record.error_code,
        prompt_tokens=record.usage.prompt_tokens,
        completion_tokens=record.usage.completion_tokens,
        cached_tokens=record.usage.cached_tokens,
        cost=record.cost,
        cost_known=record.cost_known,
        estimated=record.usage_estimated or any([one.usage_estimated for one in record.attempts]),
        cached=record.cached,
        continued=record.continued,
        ttft_s=record.ttft_s,
        total_s=record.total_s,
        attempts=[_attempt(one) for one in record.attempts],
    )


def measure(metrics: Metrics, record: CallRecord) -> None:
    """Tell the metrics of a finished call."""
    metrics.finished(
        kind=record.kind,
        backend=record.backend,
        provider=record.provider,
        status=record.status,
        stream=record.stream,
        ttft_s=record.ttft_s,
        total_s=record.total_s,
        prompt_tokens=record.usage.prompt_tokens,
        completion_tokens=record.usage.completion_tokens,
        cost=record.cost,
        cached=record.cached,
        attempts=[(one.backend, one.cause) for one in record.attempts],
    )


def cool(gate: Gate, breaker: Breaker, record: CallRecord) -> None:
    """Tell the gate of the backends that this call has found broken."""
    now = time.monotonic()
    for attempt in record.attempts:
        state, left_s = breaker.state(attempt.backend, now)
        if attempt.cause and state == "open":
            gate.mark_open(attempt.backend, left_s)


def _attempt(one: AttemptRecord) -> dict[str, object]:
    return {
        "backend": one.backend,
        "cause": one.cause,
        "status": one.status,
        "ttft_s": one.ttft_s,
        "total_s": round(one.total_s, 6),
        "prompt_tokens": None if one.usage is None else one.usage.prompt_tokens,
        "completion_tokens": None if one.usage is None else one.usage.completion_tokens,
        "estimated": one.usage_estimated,
        "cost": one.cost if one.cost_known else None,
    }


def _storable(text: str) -> str:
    """A client's words as SQLite takes them: no lone surrogates, not without end."""
    return text[:200].encode("utf-8", "replace").decode()
