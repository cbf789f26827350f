"""What a chat template says of its model: how tools, calls, results and options are told, how answers are read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exo_node.errors import InvalidRequest
from exo_node.models.chat_format import Stage, nine
from exo_node.models.chat_template import ChatTemplate
from exo_node.types import Grammar, ToolUse
from tests.chat_templates import (
    DEEPSEEK_V31,
    GEMMA,
    GPT_OSS,
    LLAMA,
    MAGISTRAL,
    PLAIN,
    QWEN,
    QWEN3,
    R1,
    SANDBOX,
    TEMPLATES,
)
from tests.unit.models.toolformats.reading import Words

TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Of a city", "parameters": {"type": "object"}},
}
USE = ToolUse(tools=(TOOL,))
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."},
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_round_of_tools_is_told(name: str) -> None:
    """Every template tells the tool, the call with its argument as JSON (or its own notation), and the result."""
    text = ChatTemplate(TEMPLATES[name][0], {}, SANDBOX).render(CHAT, use=USE)
    for word in ("get_weather", "Paris", "Sunny.", "Weather?"):
        assert word in text
    assert "{'" not in text
    assert "None" not in text
    assert '\\"city' not in text
    assert text.count("Of a city") <= 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_tools_are_told_where_none_may_be_called(name: str) -> None:
    """tool_choice none: the model hears of calls that were made, not of tools."""
    template = ChatTemplate(TEMPLATES[name][0], {}, SANDBOX)
    plain = template.render(CHAT[:1])
    assert template.render(CHAT[:1], use=ToolUse(tools=(TOOL,), choice="none")) == plain
    assert "get_weather" not in plain
    assert "Paris" in template.render(CHAT)


def test_roles_alternate_where_they_must() -> None:
    """Two results and the user's next words are one message of the user; without a system role the rules are his."""
    two = [
        CHAT[0],
        {"role": "assistant", "content": "", "tool_calls": [CALL, {**CALL, "id": "call_2"}]},
        CHAT[2],
        {"role": "tool", "tool_call_id": "call_2", "content": "Rain."},
        {"role": "user", "content": "And?"},
    ]
    text = ChatTemplate(GEMMA, {}, SANDBOX).render(two, use=USE)
    assert text.startswith("<start_of_turn>user\nYou can call these functions.")
    assert text.count("<start_of_turn>user") == 2


def test_mistral_ids_have_nine_letters() -> None:
    """Any id becomes one of nine letters and digits, the same for a call and its result."""
    text = ChatTemplate(MAGISTRAL, {}, SANDBOX).render(CHAT, use=USE)
    assert nine("call_1") in text
    assert nine("call_1") == nine("call_1") != nine("call_2")
    assert len(nine("x")) == 9
    assert nine("abcDEF123") == "abcDEF123"


def test_a_broken_call_is_told_as_it_stands() -> None:
    """Arguments that are no JSON come back to the model as text."""
    broken = {**CALL, "function": {"name": "get_weather", "arguments": '{"city": "Par'}}
    text = ChatTemplate(QWEN, {}, SANDBOX).render([CHAT[0], {**CHAT[1], "tool_calls": [broken]}, CHAT[2]])
    assert '{"city": "Par' in text


@pytest.mark.parametrize(
    ("template", "asked", "made"),
    [
        (QWEN3, {"reasoning_effort": "none"}, {"enable_thinking": False}),
        (QWEN3, {"reasoning_effort": "high"}, {"enable_thinking": True}),
        (QWEN3, {"enable_thinking": False}, {"enable_thinking": False}),
        (DEEPSEEK_V31, {"reasoning_effort": "low"}, {"thinking": True}),
        (GPT_OSS, {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        (GPT_OSS, {"reasoning_effort": "minimal"}, {"reasoning_effort": "low"}),
        (R1, {"reasoning_effort": "medium"}, {}),
        (R1, {"enable_thinking": True}, {}),
        (PLAIN, {"reasoning_effort": "none", "enable_thinking": False}, {}),
    ],
)
def test_options(template: str, asked: dict[str, Any], made: dict[str, Any]) -> None:
    """Effort and switches become the template's own variables; what changes nothing is taken."""
    assert ChatTemplate(template, {}, SANDBOX).format.options(asked) == made


@pytest.mark.parametrize(
    ("template", "asked"),
    [
        (PLAIN, {"reasoning_effort": "high"}),
        (PLAIN, {"enable_thinking": True}),
        (PLAIN, {"no_such": 1}),
        (R1, {"reasoning_effort": "none"}),
        (R1, {"enable_thinking": False}),
        (GPT_OSS, {"reasoning_effort": "none"}),
        (QWEN3, {"messages": []}),
    ],
)
def test_options_that_would_do_nothing(template: str, asked: dict[str, Any]) -> None:
    """They are refused by name; as a hint they are left out."""
    speech = ChatTemplate(template, {}, SANDBOX).format
    with pytest.raises(InvalidRequest) as caught:
        speech.options(asked)
    name = next(iter(asked))
    own_field = name in ("reasoning_effort", "enable_thinking")
    assert caught.value.param == (name if own_field else f"chat_template_kwargs.{name}")
    assert speech.hinted(asked) == {}


def test_where_an_answer_begins() -> None:
    """Inside thoughts only where the prompt has opened them; a known beginning is put after them."""
    messages = [{"role": "user", "content": "Say <think>"}]
    cases: tuple[tuple[str, dict[str, Any], Stage, str], ...] = (
        (R1, {}, "inside", "\n</think>\n\nHi"),
        (QWEN3, {"enable_thinking": False}, "after", "Hi"),
        (GPT_OSS, {}, "before", "<|channel|>final<|message|>Hi"),
        (PLAIN, {}, "before", "Hi"),
    )
    for source, options, stage, lead in cases:
        template = ChatTemplate(source, {}, SANDBOX)
        prompt = template.render(messages, options=options)
        assert template.format.stage(prompt) == stage
        assert template.format.lead("Hi", stage=stage) == lead


@pytest.mark.parametrize(
    ("template", "use", "splits"),
    [(PLAIN, None, False), (PLAIN, USE, True), (QWEN3, None, True), (GPT_OSS, None, True)],
)
def test_only_what_must_be_split_is(template: str, use: ToolUse | None, splits: bool) -> None:
    """A plain answer of a model without thoughts goes past all of this."""
    reader = ChatTemplate(template, {}, SANDBOX).format.reader(lambda: Words(), use, stage="before")
    assert (reader is not None) == splits


def test_grammars() -> None:
    """Calls after free thoughts; a schema after them; either where both are possible."""
    schema = Grammar("json_schema", json.dumps({"type": "object"}), "response_format")
    forced = ToolUse(tools=(TOOL,), choice="required")
    plain, thinking, oss, llama = (ChatTemplate(one, {}, SANDBOX).format for one in (PLAIN, QWEN3, GPT_OSS, LLAMA))
    assert plain.grammar(schema, None, {}, stage="before") is schema
    for speech in (plain, thinking, oss, llama):
        made = speech.grammar(None, forced, {}, stage="before")
        assert made is not None
        assert (made.kind, made.field) == ("lark", "tools")
        assert ("thoughts" in made.text) == (speech.thinks)
    both = thinking.grammar(schema, USE, {}, stage="inside")
    assert both is not None
    assert both.field == "response_format"
    assert both.text.startswith("start: thoughts (calls | answer)")
    final = oss.grammar(schema, None, {}, stage="before")
    assert final is not None
    assert 'start: thoughts ("<|channel|>final<|message|>" answer)' in final.text


def test_what_may_be_called_is_bound() -> None:
    """Where a call has a mark of its own and is JSON, told in words or by the template; not else, not for none."""
    bound = {name for name, (source, _) in TEMPLATES.items() if ChatTemplate(source, {}, SANDBOX).format.binds}
    assert bound == {"qwen", "qwen3", "r1", "mistral", "magistral", "phi", "granite", "gemma", "plain"}
    assert not ChatTemplate(QWEN + "{# <function=NAME> #}", {}, SANDBOX).format.binds
    assert ChatTemplate(PLAIN + "{# <function=NAME> #}", {}, SANDBOX).format.binds
    plain, llama, r1 = (ChatTemplate(one, {}, SANDBOX).format for one in (PLAIN, LLAMA, R1))
    made = plain.grammar(None, USE, {}, stage="before")
    assert made is not None
    assert (made.kind, made.field) == ("may_call", "tools")
    assert llama.grammar(None, USE, {}, stage="before") is None
    assert plain.grammar(None, ToolUse(tools=(TOOL,), choice="none"), {}, stage="before") is None
    inside, after = (r1.grammar(None, USE, {}, stage=stage) for stage in ("inside", "after"))
    assert inside is not None
    assert after is not None
    assert "thought" in inside.text
    assert "thought" not in after.text
