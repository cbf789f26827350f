"""Grammars of forced calls, held against text by llguidance itself with the demo model's tokenizer."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import llguidance
import pytest

from exo_node.errors import InvalidRequest
from exo_node.models.toolformats import deepseek, gemma, harmony, hermes, lark, llama, mistral, phi
from exo_node.models.toolformats.base import ToolFormat
from exo_node.models.toolformats.thoughts import KNOWN
from exo_node.types import Grammar, ToolUse
from tests.unit.models.toolformats.reading import read

DEMO = Path(str(resources.files("exo_node"))) / "models" / "demo"
TOKENIZER = llguidance.LLTokenizer(str(DEMO / "tokenizer.json"))
SPECIAL = {"<|end|>": 2}
WEATHER: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "description": "d",
    "properties": {
        "city": {"$ref": "#/$defs/city", "description": "a city"},
        "days": {"type": "integer", "minimum": 1, "maximum": 7, "default": 3},
        "description": {"type": "string", "enum": ["title"]},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"city": {"type": "string", "maxLength": 9}},
}
TOOLS = (
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}},
)
FAMILIES = [
    hermes.HERMES,
    llama.LLAMA,
    mistral.MISTRAL_LIST,
    mistral.MISTRAL_NAMED,
    deepseek.DEEPSEEK_FENCED,
    deepseek.DEEPSEEK_PLAIN,
    phi.PHI,
    gemma.FUNCTION_GEMMA,
    gemma.GEMMA4,
    harmony.HARMONY,
]


def accepts(grammar: str, text: str, *, special: bool = False) -> bool:
    """Whether `text` is a complete sentence of the grammar."""
    matcher = llguidance.LLMatcher(TOKENIZER, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = TOKENIZER.tokenize_str(text, parse_special=special)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def calls(family: ToolFormat, **use: Any) -> str:
    return "start: calls\n" + lark.of_calls(family.frame, ToolUse(tools=TOOLS, **use), SPECIAL)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_required_calls_match_their_schemas(family: ToolFormat) -> None:
    """A right call is taken and read back; a wrong argument, a wrong name or plain text is not."""
    grammar = calls(family, choice="required")
    good = family.frame.write([("get_weather", '{"city": "Paris", "days": 2, "description": "title"}')])
    assert accepts(grammar, good)
    assert [name for name, _ in read(family, good).calls] == ["get_weather"]
    for wrong in ('{"city": 5}', '{"days": 2}', '{"city": "Paris", "days": 9}', '{"city": "a", "more": 1}', "{}"):
        assert not accepts(grammar, family.frame.write([("get_weather", wrong)]))
    assert not accepts(grammar, family.frame.write([("other", "{}")]))
    assert not accepts(grammar, "The weather is fine.")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_named_and_parallel(family: ToolFormat) -> None:
    """A named choice allows that tool only; several calls are allowed where the family and the request allow them."""
    named = calls(family, choice="add", named=True)
    assert accepts(named, family.frame.write([("add", "{}")]))
    assert not accepts(named, family.frame.write([("get_weather", '{"city": "Paris"}')]))
    two = family.frame.write([("add", "{}"), ("add", "{}")])
    assert accepts(calls(family, choice="required"), two) == (not family.frame.single)
    assert not accepts(calls(family, choice="required", parallel=False), two)


def test_descriptions_are_left_out() -> None:
    """What binds nothing is not compiled; a property may have any name."""
    styled = lark.styled(WEATHER)
    assert styled["properties"]["city"] == {"$ref": "#/$defs/city"}
    assert styled["properties"]["days"] == {"type": "integer", "minimum": 1, "maximum": 7}
    assert styled["properties"]["description"] == {"type": "string", "enum": ["title"]}
    assert "$schema" not in styled


def test_null_is_as_absent() -> None:
    """Clients in Go say "required": null where nothing is required; a constant may be null."""
    bare = {"type": "object", "properties": {"a": {"const": None}}}
    said = {"type": "object", "properties": {"a": {"const": None, "enum": None}}, "required": None}
    assert lark.styled(said) == lark.styled(bare)
    assert lark.styled({"type": "object", "properties": None}) == lark.styled({"type": "object"})


def test_thoughts_are_free() -> None:
    """Anything may stand before the closing mark; without an opened block there may be none."""
    for inside, written, good in (
        (True, "so {1}</think>\n\n<tool_call>", True),
        (True, "<tool_call>", False),
        (False, "<think>so</think><tool_call>", True),
        (False, "<tool_call>", True),
        (False, "so</think><tool_call>", False),
    ):
        rules = lark.after_thoughts(KNOWN[0], {}, inside=inside)
        assert accepts(f'start: thoughts "<tool_call>"\n{rules}', written) == good


def test_special_tokens_stand_for_themselves() -> None:
    """A mark that is a special token is met as that token, not as its characters."""
    assert lark.literal("a<|end|>", SPECIAL) == '"a" <[2]>'
    grammar = f"start: {lark.literal('a<|end|>b', SPECIAL)}"
    assert accepts(grammar, "a<|end|>b", special=True)


def test_answers_with_calls_or_thoughts() -> None:
    """A grammar of the answer is a rule among others; one in Lark cannot be."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert accepts("start: answer\n" + lark.of_answer(Grammar("json_schema", json.dumps(schema))), '{"a": 1}')
    assert not accepts("start: answer\n" + lark.of_answer(Grammar("json_schema", json.dumps(schema))), "{}")
    spaced = "start: answer\n" + lark.of_answer(Grammar("json_schema", json.dumps(schema)))
    assert not accepts(spaced, '{ "a" : 1}')
    assert accepts(lark.roomy(spaced), '{ "a" : 1}')
    assert accepts("start: answer\n" + lark.of_answer(Grammar("json")), '{"b": [1]}')
    assert accepts("start: answer\n" + lark.of_answer(Grammar("regex", "a/b|c")), "a/b")
    with pytest.raises(InvalidRequest, match="whole answer"):
        lark.of_answer(Grammar("lark", 'start: "a"', "guided_grammar"))
