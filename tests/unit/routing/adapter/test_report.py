"""routing/adapter/report.py: one record a call, safe to keep."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from exo_node.errors import ExoError
from exo_node.routing.adapter.attempts import Attempts, Tried
from exo_node.routing.adapter.failure import headers_of
from exo_node.routing.adapter.ports import OpenGate
from exo_node.routing.adapter.report import Report, text_of
from exo_node.routing.call import AttemptRecord, CallRecord
from exo_node.routing.deployment import Price
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.plan import Candidate, Step
from exo_node.routing.sinks import spend_row
from exo_node.routing.upstream.transcript import length_of
from exo_node.types import Usage
from tests.unit.routing.adapter_parts import call, candidate, failure


def test_told_once() -> None:
    """Whatever happens after the first end, the sinks hear of one."""
    heard: list[CallRecord] = []
    attempts = Attempts(call(), Profile(), Breaker(), OpenGate(), time.monotonic)
    report = Report(call(), attempts, (lambda record: heard.append(record),), time.monotonic, time.monotonic())
    error = ExoError("no")
    report.failed(error, "x" * 2_000_000)
    report.gone(None, "")
    assert [(record.status, record.error, len(record.text)) for record in heard] == [(500, "no", 1_000_000)]
    assert headers_of(error) == {}, "nobody was asked, so there is nothing to say of it"


def test_text_of_answers_of_any_shape() -> None:
    """Nothing that a provider sends makes it fail."""
    assert text_of({"choices": [{"message": {"content": "a"}}]}) == "a"
    assert text_of({"choices": [{"text": "a"}]}) == "a"
    odd_ones: list[Any] = [None, {}, {"choices": []}, {"choices": [None]}, {"choices": [{"message": {"content": [1]}}]}]
    for odd in odd_ones:
        assert (text_of(odd), length_of(odd)) == ("", 0)


def test_the_length_of_answers_is_all_that_was_made() -> None:
    """Every choice, thoughts and calls too: an estimate of the first one's text would make the rest free."""
    function = {"name": "add", "arguments": '{"a":1}'}
    message = {"content": "ab", "reasoning_content": "hm", "tool_calls": [{"function": function}]}
    assert length_of({"choices": [{"message": message}, {"message": {"content": "xyz"}}]}) == 2 + 2 + 10 + 3
    assert length_of({"choices": [{"text": "a"}, {"text": "bc"}]}) == 3
    assert length_of({"choices": [{"message": {"content": "ab", "tool_calls": "odd"}}]}) == 2


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


@pytest.mark.parametrize(
    ("price", "kind", "running", "ended"),
    [
        (Price(1.0, 2.0), "deployment", "0.00001", "0.000014"),
        (None, "deployment", None, None),
        (None, "ring", "0", "0"),
    ],
)
async def test_an_unknown_price_is_not_zero(
    price: Price | None, kind: Any, running: str | None, ended: str | None
) -> None:
    """What a ring answers costs 0; where no price is known the header is not there and the event has null."""
    asked = call()
    heard: list[CallRecord] = []
    attempts = Attempts(asked, Profile(), Breaker(), OpenGate(), time.monotonic)
    report = Report(asked, attempts, (heard.append,), time.monotonic, time.monotonic())
    one = Candidate(backend="b", kind=kind, provider="p", model="m", price=price)
    cost = 1e-5 if price else 0.0 if kind == "ring" else None
    tried = await attempts.begin(Step(candidate=one, ttft_s=0.1, total_s=0.2, cost=cost, reason=""))
    assert report.headers(tried).get("x-exo-cost") == running
    assert (report.exo(tried, Usage(10, 2), False)["cost"] is None) == (running is None)
    attempts.answered(tried, Usage(10, 2))
    assert report.headers(tried).get("x-exo-cost") == ended
    report.answered(tried, Usage(10, 2), False, "")
    assert heard[0].cost_known == (ended is not None)


async def test_a_failed_calls_tokens_are_on_record() -> None:
    """What may be billed for attempts that failed is estimated and marked, tokens as well as money."""
    asked = call()
    heard: list[CallRecord] = []
    attempts = Attempts(asked, Profile(), Breaker(), OpenGate(), time.monotonic)
    report = Report(asked, attempts, (heard.append,), time.monotonic, time.monotonic())
    for cause, pieces in (("eof", 3), ("refused", 0), ("timeout", 0)):
        step = Step(candidate=candidate(cause), ttft_s=0.1, total_s=0.2, cost=1e-5, reason="")
        tried = await attempts.begin(step)
        tried.pieces = pieces
        attempts.failed(tried, failure(cause))
    report.failed(failure("eof"), "")
    row = spend_row(heard[0], "node-a")
    assert (row.prompt_tokens, row.completion_tokens) == (2 * asked.prompt_tokens, 3)
    assert (row.estimated, row.cost > 0, row.cost_known) == (True, True, True)
