"""The services that exo-node tells of finished calls by itself: where, with which key, in which shape. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from exo_node.errors import ConfigurationError
from exo_node.routing.call import CallRecord
from exo_node.routing.callbacks.events import helicone_log, langfuse_batch

SERVICES = ("langfuse", "helicone")
LANGFUSE_HOST = "https://cloud.langfuse.com"
HELICONE_BASE = "https://api.worker.helicone.ai"
MULTI_STATUS = 207  # Langfuse's answer to a batch, whatever became of the events in it
SHOWN = 200  # characters of a refusal


@dataclass(frozen=True, slots=True)
class Service:
    """`shape` makes of a call the JSON that is posted to `url`."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    shape: Callable[[CallRecord], dict[str, Any]]


def service_of(name: str, environment: Mapping[str, str]) -> Service:
    """One of `SERVICES`, with its keys from `environment`. Raises `ConfigurationError` where they are missing."""
    if name == "langfuse":
        public, secret = environment.get("LANGFUSE_PUBLIC_KEY"), environment.get("LANGFUSE_SECRET_KEY")
        if not public or not secret:
            raise ConfigurationError("callback langfuse needs LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY")
        host = environment.get("LANGFUSE_HOST") or environment.get("LANGFUSE_BASE_URL") or LANGFUSE_HOST
        token = base64.b64encode(f"{public}:{secret}".encode()).decode()
        url = f"{host.rstrip('/')}/api/public/ingestion"
        return Service(url, {"Authorization": f"Basic {token}"}, langfuse_batch)
    key = environment.get("HELICONE_API_KEY")
    if not key:
        raise ConfigurationError("callback helicone needs HELICONE_API_KEY")
    base = environment.get("HELICONE_API_BASE") or HELICONE_BASE
    return Service(f"{base.rstrip('/')}/custom/v1/log", {"Authorization": f"Bearer {key}"}, helicone_log)


def refusal(status: int, raw: bytes) -> str:
    """What a service that took the request says of an event that it did not take; "" where it says nothing.

    Langfuse: `{"successes": [...], "errors": [{"id", "status", "message", "error"}]}`.
    """
    if status != MULTI_STATUS:
        return ""
    try:
        errors = json.loads(raw)["errors"]
    except (ValueError, TypeError, KeyError):
        return ""
    return json.dumps(errors[0])[:SHOWN] if isinstance(errors, list) and errors else ""
