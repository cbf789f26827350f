"""routing/adapter/report.py: one record a call, safe to keep."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from exo_node.errors import ExoError
from exo_node.routing.adapter.attempts import Attempts, Tried
from exo_node.routing.adapter.failure import headers_of
from exo_node.routing.adapter.ports import OpenGate
from exo_node.routing.adapter.report import Report, text_of
from exo_node.routing.call import AttemptRecord, CallRecord
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.plan import Candidate, Step
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


def test_a_provider_that_was_passed_over_is_named() -> None:
    """Who asks for a provider without its key hears of it from the answer of another one; a member of a group does
    not."""
    no_key = Candidate(
        backend="auto:groq/llama", kind="deployment", provider="groq", model="llama", rejected="no key for Groq: set X"
    )
    served = Candidate(backend="b", kind="deployment", provider="openai", model="gpt", tier=1, equivalent=True)

    def reason(candidate: Candidate) -> str:
        asked = call(model="fast")
        attempts = Attempts(asked, Profile(), Breaker(), OpenGate(), time.monotonic)
        report = Report(asked, attempts, (), time.monotonic, time.monotonic())
        report.passed_over = [no_key]
        step = Step(candidate=candidate, ttft_s=0.1, total_s=0.2, cost=None, reason="the quickest")
        tried = Tried(step, AttemptRecord(backend="b"), 0.0, 0, 0)
        return report.headers(tried)["x-exo-reason"]

    assert reason(served) == "the quickest; groq/llama: no key for Groq: set X"
    assert reason(replace(served, tier=0, equivalent=False)) == "the quickest"
