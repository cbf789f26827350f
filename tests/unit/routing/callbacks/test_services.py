"""Langfuse and Helicone: addresses and keys."""

from __future__ import annotations

import pytest

from exo_node.errors import ConfigurationError
from exo_node.routing.callbacks.services import SERVICES, refusal, service_of

KEYS = {"LANGFUSE_PUBLIC_KEY": "pk", "LANGFUSE_SECRET_KEY": "planted-sk", "HELICONE_API_KEY": "planted-hk"}


def test_addresses() -> None:
    """The services' own, or the variables'; a slash at the end is none too many."""
    assert service_of("langfuse", KEYS).url == "https://cloud.langfuse.com/api/public/ingestion"
    assert service_of("helicone", KEYS).url == "https://api.worker.helicone.ai/custom/v1/log"
    own = {**KEYS, "LANGFUSE_BASE_URL": "http://l/", "HELICONE_API_BASE": "http://h/"}
    assert [service_of(name, own).url for name in SERVICES] == [
        "http://l/api/public/ingestion",
        "http://h/custom/v1/log",
    ]


@pytest.mark.parametrize("name", SERVICES)
def test_keys(name: str) -> None:
    """They go into the header, never into a repr; without them the error names the variables."""
    service = service_of(name, KEYS)
    assert service.headers["Authorization"] in ("Basic cGs6cGxhbnRlZC1zaw==", "Bearer planted-hk")
    assert "planted" not in repr(service) and "Basic" not in repr(service)
    with pytest.raises(ConfigurationError, match=f"{name} needs {name.upper()}"):
        service_of(name, {})


def test_a_refused_event_in_an_answer_that_is_none() -> None:
    """207 with errors is a refusal; every other answer is none, whatever is in it."""
    assert "no name" in refusal(207, b'{"successes": [], "errors": [{"id": "1", "status": 400, "message": "no name"}]}')
    for status, raw in ((207, b'{"errors": []}'), (207, b"ok"), (207, b"[]"), (200, b'{"errors": [1]}')):
        assert refusal(status, raw) == ""
