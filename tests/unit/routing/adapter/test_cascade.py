"""routing/adapter/cascade.py: whether an answer is good enough."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.errors import ConfigurationError
from exo_node.routing.adapter.cascade import own_check, shortcoming
from exo_node.routing.call import Call
from tests.unit.routing.adapter_parts import call


def said(content: Any, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop", **fields}]}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (said("Paris."), ""),
        (said(""), "empty"),
        (said(None), "empty"),
        ({"choices": []}, "empty"),
        (said("I\u2019m sorry, but I can\u2019t help with that."), "refusal"),
        (said("As an AI language model, I have no opinion."), "refusal"),
        (said("He said: I cannot wait."), ""),
        (said("Fine", finish_reason="content_filter"), "refusal"),
        ({"choices": [{"message": {"content": None, "refusal": "No."}}]}, "refusal"),
        ({"choices": [{"message": {"content": None, "tool_calls": [{}]}}]}, ""),
        (said("x", logprobs={"content": [{"logprob": -2.0}, {"logprob": -1.0}]}), "low_logprob"),
        (said("x", logprobs={"content": [{"logprob": -0.2}]}), ""),
        ({"choices": [{"text": "x", "logprobs": {"token_logprobs": [None, -3.0]}}]}, "low_logprob"),
    ],
)
def test_checks(answer: dict[str, Any], why: str) -> None:
    """Refusal, nothing, and answers that the model itself doubts."""
    assert shortcoming(call(False), answer) == why


def test_json_where_json_was_asked_for() -> None:
    """Only then."""
    asked = call(False, body={"response_format": {"type": "json_object"}})
    assert shortcoming(asked, said("{'a': 1}")) == "invalid_json"
    assert shortcoming(asked, said('{"a": 1}')) == ""


def test_the_users_own_check_has_the_last_word() -> None:
    """Its reason is the record's."""
    assert shortcoming(call(False), said("short"), lambda call, answer: "too short") == "too short"


def not_polite(call: Call, answer: dict[str, Any]) -> str | None:
    text = answer["choices"][0]["message"]["content"]
    return None if "please" in text else "not polite"


async def slow(call: Call, answer: dict[str, Any]) -> None: ...


def test_own_check(caplog: pytest.LogCaptureFixture) -> None:
    """The user's function judges what passed the others; one that raises is a reason too, logged without secrets."""
    check = own_check(f"{__name__}:not_polite", {"SOME_KEY": "choices"})
    assert shortcoming(call(), said("Here, please."), check) == ""
    assert shortcoming(call(), said("Here."), check) == "not polite"
    assert shortcoming(call(), said(""), check) == "empty"
    assert check(call(), {}) == f"{__name__}:not_polite raised KeyError"
    assert caplog.messages == [f"cascade_check {__name__}:not_polite raised KeyError: '***'"]


@pytest.mark.parametrize(("name", "why"), [("slow", "is async"), ("Any_", "cannot be imported"), ("said.x", "cannot")])
def test_own_checks_that_cannot_work(name: str, why: str) -> None:
    """A name that is no plain function is a configuration error."""
    with pytest.raises(ConfigurationError, match=why):
        own_check(f"{__name__}:{name}")
