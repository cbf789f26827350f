"""The one error that a call ends with when no backend answered: the true cause, and every backend's own. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exo_node.errors import AnswerLost, ExoError
from exo_node.routing.call import Call, Capability, UpstreamError
from exo_node.routing.plan import Candidate, RoutePlan, Step
from exo_node.routing.policy.options import TOO_DEAR

MAX_MESSAGE = 2000
_FIELDS: Mapping[Capability, str] = {  # what asks for it
    "vision": "messages", "audio": "messages", "prefill": "messages", "tools": "tools", "logprobs": "logprobs",
    "json_schema": "response_format",
}  # fmt: skip


def final_error(call: Call, plan: RoutePlan, errors: Sequence[tuple[Step, UpstreamError]]) -> ExoError:
    """The plan's first backend speaks for all, unless it could not even be asked. `retry_after` is the earliest known,
    where it has to be waited for.

    An error that stands for one of the ring's (its `__cause__`) is that one, when it speaks alone.
    """
    latest: dict[str, UpstreamError] = {}
    for step, error in errors:
        before = latest.pop(step.candidate.backend, None)
        # What a ring lost stays lost, whatever the next attempt met with before its first token.
        latest[step.candidate.backend] = before if before is not None and before.code == AnswerLost.code else error
    if not latest:
        return UpstreamError(f"{call.model}: no time was left to ask a backend", "timeout")
    order = {step.candidate.backend: i for i, step in enumerate(plan.steps)}
    found = sorted(latest.items(), key=lambda one: order.get(one[0], len(order)))
    chosen = next((error for _, error in found if error.cause != "unavailable"), found[0][1])
    waits = [error.retry_after for error in latest.values() if error.retry_after is not None]
    if chosen.cause != "rate_limited" and chosen.retry_after is None:
        waits = []  # it may be well again in a second, whatever another one's quota says
    if len(latest) == 1:
        cause = chosen.__cause__
        return cause if isinstance(cause, ExoError) and not isinstance(cause, UpstreamError) else chosen
    every = "; ".join(error.message for _, error in found)[:MAX_MESSAGE]
    made = UpstreamError(
        f"none of {len(latest)} backends answered: {every}",
        chosen.cause,
        status=chosen.status,
        code=chosen.code,
        param=chosen.param,
        retry_after=min(waits) if waits else None,
        upstream_status=chosen.upstream_status,
    )
    made.__cause__ = chosen
    return made


def nobody(call: Call, plan: RoutePlan, candidates: Sequence[Candidate]) -> UpstreamError:
    """No backend may even be asked: why not, for each. 429 where only room is lacking, with the time until there is
    some; 400 where nobody offers it, or all cost more than the request wants; not worth another try where only the
    configuration can change it (a key is missing)."""
    why = "; ".join(f"{backend}: {reason}" for backend, reason in plan.rejected.items())[:MAX_MESSAGE]
    message = f"no backend can serve {call.model!r}{f': {why}' if why else ''}"
    if plan.retry_after_s is not None:
        return UpstreamError(message, "rate_limited", retry_after=plan.retry_after_s)
    there = [candidate for candidate in candidates if not candidate.rejected]
    if there and all(call.needs - candidate.capabilities for candidate in there):
        lacking = sorted(call.needs - frozenset[Capability]().union(*(one.capabilities for one in there)))
        param = next((_FIELDS[one] for one in lacking if one in _FIELDS), None)
        return UpstreamError(message, "bad_request", code="unsupported_parameter", param=param)
    full = [candidate for candidate in there if not candidate.room]
    if full:
        waits = [candidate.room_in_s for candidate in full if candidate.room_in_s is not None]
        return UpstreamError(message, "rate_limited", retry_after=min(waits, default=None))
    if there and all(TOO_DEAR in plan.rejected.get(candidate.backend, "") for candidate in there):
        return UpstreamError(message, "bad_request", code="max_cost_exceeded", param="max_cost")
    error = UpstreamError(message, "unavailable")
    error.retryable = bool(there)
    return error


def headers_of(error: ExoError) -> Mapping[str, str]:
    """The `x-exo-*` headers that belong to a failed call ({} for errors that did not come from the adapter)."""
    found: Mapping[str, str] = getattr(error, "exo_headers", {})
    return found
