"""What a request looks like."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.routing.call import Capability
from exo_node.routing.deployment import Price
from exo_node.routing.plan import Ask, Candidate
from exo_node.routing.policy.heuristics import assess, last_user_text, suits


def ask(text: str, tokens: int = 50, needs: frozenset[Capability] = frozenset()) -> Ask:
    return Ask(kind="chat", model="m", prompt_tokens=tokens, max_tokens=None, stream=False, needs=needs, text=text)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("Hi there!", "general"),
        ("Write a Python function that sorts a list", "code"),
        ("```\nx = 1\n```\nwhat happens here", "code"),
        ("Complex coding task", "code"),
        ("Translate this into French", "translation"),
        ("Summarize the article", "summarization"),
        ("Prove the theorem", "math"),
        ("Compare both designs and their trade-offs", "reasoning"),
        ("A poem about rain", "creative"),
        ("Extract the names as JSON", "extraction"),
    ],
)
def test_tasks(text: str, task: str) -> None:
    """Plain wordings are told apart."""
    assert assess(ask(text)).task == task


def test_length_and_words_make_it_hard() -> None:
    """A long, careful coding request is hard, a greeting is not."""
    assert assess(ask("hi")).hard < 0.6
    assert assess(ask("Refactor this complex code carefully", 5000)).hard >= 0.6
    assert assess(ask("hi", 5000)).length == "long"
    assert assess(ask("hi", needs=frozenset({"vision"}))).task == "vision"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "image_url"}]}]}, "c"),
        ({"prompt": "d"}, "d"),
        ({"input": ["e"]}, ""),
        ({}, ""),
    ],
)
def test_the_last_user_message(body: dict[str, Any], text: str) -> None:
    """Text is found in strings and in parts; other shapes give nothing."""
    assert last_user_text(body) == text


def test_who_suits() -> None:
    """Task types must fit, and a hard task wants a model that is not the small one."""
    small = Candidate(backend="s", kind="deployment", provider="p", model="s", price=Price(0.1, 0.2))
    poet = Candidate(backend="p", kind="deployment", provider="p", model="p", task_types=("creative",))
    hard = assess(ask("Refactor this complex code", 5000))
    assert suits(hard, small, dearest=10.0) == "a small model for a hard task"
    assert suits(assess(ask("hi")), small, dearest=10.0) == ""
    assert suits(hard, poet, dearest=0.0) == "made for creative"
