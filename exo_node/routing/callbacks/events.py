"""A finished call in the shapes of the services that record calls. Pure.

Langfuse: POST /api/public/ingestion, a batch with one `generation-create` (its trace comes into being with it).
Helicone: POST /custom/v1/log, one object of request, response and timing. `summary` is what own functions get.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from exo_node.routing.call import AttemptRecord, CallRecord

PRODUCT = "exo-node"


def summary(record: CallRecord) -> dict[str, Any]:
    """Everything that is told of a call, JSON-ready. Times in seconds, cost in USD (None: no price is known)."""
    return {
        "id": record.id,
        "kind": record.kind,
        "model": record.served_model or record.model,
        "requested_model": record.model,
        "backend": record.backend,
        "provider": record.provider,
        "stream": record.stream,
        "cached": record.cached,
        "continued": record.continued,
        "key_id": record.caller.key_id,
        "user": record.caller.user,
        "started": record.started,
        "ttft_s": record.ttft_s,
        "total_s": record.total_s,
        "usage": usage(record),
        "usage_estimated": record.usage_estimated,
        "cost": cost(record),
        "status": record.status,
        "error": record.error,
        "error_code": record.error_code,
        "attempts": [
            {
                "backend": one.backend,
                "cause": one.cause,
                "status": one.status,
                "total_s": one.total_s,
                "cost": cost(one),
            }
            for one in record.attempts
        ],
    }


def response_view(record: CallRecord) -> SimpleNamespace:
    """What an own function gets: `summary` by attribute, and `usage` and `choices` as OpenAI's objects have them."""
    view = SimpleNamespace(**summary(record))
    view.usage = SimpleNamespace(**usage(record))
    view.choices = [SimpleNamespace(index=0, message=SimpleNamespace(role="assistant", content=record.text))]
    view.request = dict(record.body)
    return view


def usage(record: CallRecord) -> dict[str, int]:
    total = record.usage.prompt_tokens + record.usage.completion_tokens
    return {
        "prompt_tokens": record.usage.prompt_tokens,
        "completion_tokens": record.usage.completion_tokens,
        "total_tokens": total,
    }


def cost(told: CallRecord | AttemptRecord) -> float | None:
    return told.cost if told.cost_known else None


def question(record: CallRecord) -> Any:
    """The part of the body that was asked."""
    for name in ("messages", "prompt", "input", "query"):
        if name in record.body:
            return record.body[name]
    return None


def langfuse_batch(record: CallRecord) -> dict[str, Any]:
    """The body of one ingestion call."""
    ended = record.started + record.total_s
    asked = {k: v for k, v in record.body.items() if type(v) in (int, float, str, bool) and k not in ("model", "input")}
    body: dict[str, Any] = {
        "id": record.id,
        "traceId": record.id,
        "name": f"{PRODUCT} {record.kind}",
        "model": record.served_model or record.model,
        "modelParameters": asked,
        "input": question(record),
        "output": record.text or None,
        "startTime": _iso(record.started),
        "endTime": _iso(ended),
        "usage": {
            "input": record.usage.prompt_tokens,
            "output": record.usage.completion_tokens,
            "total": record.usage.prompt_tokens + record.usage.completion_tokens,
            "unit": "TOKENS",
            "totalCost": cost(record),
        },
        "metadata": {k: v for k, v in summary(record).items() if k not in ("usage", "model")},
        "level": "ERROR" if record.error else "DEFAULT",
    }
    if record.error:
        body["statusMessage"] = record.error
    if record.ttft_s is not None:
        body["completionStartTime"] = _iso(record.started + record.ttft_s)
    event = {"id": f"{record.id}-generation", "type": "generation-create", "timestamp": _iso(ended), "body": body}
    return {"batch": [event], "metadata": {"sdk_name": PRODUCT}}


def helicone_log(record: CallRecord) -> dict[str, Any]:
    """The body of one log call."""
    told: dict[str, Any] = {"error": {"message": record.error, "code": record.error_code}}
    if not record.error:
        choice = {"index": 0, "message": {"role": "assistant", "content": record.text}, "finish_reason": "stop"}
        told = {
            "id": record.id,
            "model": record.served_model or record.model,
            "usage": usage(record),
            "choices": [choice] if record.kind in ("chat", "completion") else [],
        }
    meta = {"Helicone-Property-Backend": record.backend, "Helicone-Property-Provider": record.provider}
    if record.caller.user:
        meta["Helicone-User-Id"] = record.caller.user
    timing: dict[str, Any] = {
        "startTime": _split(record.started),
        "endTime": _split(record.started + record.total_s),
    }
    if record.ttft_s is not None:
        timing["timeToFirstToken"] = round(record.ttft_s * 1000)
    return {
        "providerRequest": {"url": "custom-model-nopath", "json": dict(record.body), "meta": meta},
        "providerResponse": {"json": told, "status": record.status, "headers": {}},
        "timing": timing,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _split(seconds: float) -> dict[str, int]:
    return {"seconds": int(seconds), "milliseconds": int(seconds * 1000) % 1000}
