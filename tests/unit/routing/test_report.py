"""routing/report.py: one record a call, safe to keep."""

from __future__ import annotations

import time
from typing import Any

from exo_node.errors import ExoError
from exo_node.routing.attempts import Attempts
from exo_node.routing.breaker import Breaker
from exo_node.routing.call import CallRecord
from exo_node.routing.failure import headers_of
from exo_node.routing.ports import OpenGate
from exo_node.routing.profile import Profile
from exo_node.routing.report import Report, text_of
from tests.unit.routing.adapter_parts import call


def test_told_once() -> None:
    """Whatever happens after the first end, the sinks hear of one."""
    heard: list[CallRecord] = []
    attempts = Attempts(call(), Profile(), Breaker(), OpenGate(), time.monotonic)
    report = Report(call(), attempts, (lambda record: heard.append(record),), time.monotonic, time.monotonic())
    error = ExoError("no")
    report.failed(error, "x" * 2_000_000)
    report.gone(None, "")
    assert [(record.status, record.error, len(record.text)) for record in heard] == [(500, "no", 1_000_000)]
    assert headers_of(error)["x-exo-attempts"] == ""


def test_text_of_answers_of_any_shape() -> None:
    """Nothing that a provider sends makes it fail."""
    assert text_of({"choices": [{"message": {"content": "a"}}]}) == "a"
    assert text_of({"choices": [{"text": "a"}]}) == "a"
    odd_ones: list[Any] = [None, {}, {"choices": []}, {"choices": [None]}, {"choices": [{"message": {"content": [1]}}]}]
    for odd in odd_ones:
        assert text_of(odd) == ""
