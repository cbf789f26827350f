"""Tools and the text's form in the Responses API."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.api.dialects.responses_tools import read_tools, text_fields, tool_fields
from exo_node.errors import InvalidRequest

SCHEMA = {"type": "object", "properties": {}}
TOOL = {"type": "function", "name": "f", "description": "Does f", "parameters": SCHEMA, "strict": True}
OTHER = {"type": "function", "name": "g", "parameters": None, "strict": None}
NESTED = {"type": "function", "function": {"name": "f", "description": "Does f", "parameters": SCHEMA, "strict": True}}


def fields(choice: Any = None, parallel: bool | None = None) -> tuple[dict[str, Any], Any]:
    return tool_fields(read_tools([TOOL, OTHER]), choice, parallel)


def test_flat_tools_are_nested_in_a_chat() -> None:
    """The chat gets what is set; the answer repeats the flat form, also of a tool that came as chats have it."""
    body, choice = fields()
    both = [NESTED, {"type": "function", "function": {"name": "g"}}]
    assert (body, choice) == ({"tools": both, "tool_choice": "auto"}, "auto")
    assert read_tools([TOOL, OTHER]) == [TOOL, OTHER]
    assert read_tools([NESTED]) == [TOOL]
    assert fields("required", False)[0] == {"tools": both, "tool_choice": "required", "parallel_tool_calls": False}


def test_choices() -> None:
    """A named function, and some of the tools only, which the answer repeats as they came."""
    named = {"type": "function", "name": "f"}
    body, choice = fields(named)
    assert (body["tool_choice"], choice) == ({"type": "function", "function": {"name": "f"}}, named)
    some = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    body, choice = fields(some)
    assert (body["tools"], body["tool_choice"], choice) == ([NESTED], "required", some)


def test_no_tools_leave_nothing() -> None:
    """Null, an empty array and a choice without tools send nothing: providers refuse the fields alone."""
    assert read_tools(None) == read_tools([]) == []
    for choice in (None, "auto", "none"):
        assert tool_fields([], choice, True) == ({}, choice or "auto")


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ({}, None, "tools"),
        ([7], None, "tools[0]"),
        ([{"type": "web_search"}], None, "tools[0].type"),
        ([{**TOOL, "name": ""}], None, "tools[0].name"),
        ([{**TOOL, "parameters": []}], None, "tools[0].parameters"),
        ([{**TOOL, "strict": "yes"}], None, "tools[0].strict"),
        ([{**TOOL, "defer_loading": True}], None, "tools[0].defer_loading"),
        ([], "required", "tool_choice"),
        ([TOOL], "any", "tool_choice"),
        ([TOOL], {"type": "function", "name": "h"}, "tool_choice.name"),
        ([TOOL], {"type": "file_search"}, "tool_choice.type"),
        ([TOOL], {"type": "allowed_tools", "mode": "none"}, "tool_choice.mode"),
        ([TOOL], {"type": "allowed_tools", "mode": "auto", "tools": None}, "tool_choice.tools"),
        ([TOOL], {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}, "tool_choice.tools[0]"),
    ],
)
def test_what_cannot_be_taken_is_named(tools: Any, choice: Any, param: str) -> None:
    """A wrong tool or choice, and one of OpenAI's own, is a 400 with its place."""
    with pytest.raises(InvalidRequest) as caught:
        tool_fields(read_tools(tools), choice, None)
    assert (caught.value.param, caught.value.status) == (param, 400)


def test_the_texts_form() -> None:
    """Text says nothing to the chat; JSON and schemas become its `response_format`."""
    plain = {"format": {"type": "text"}, "verbosity": "medium"}
    for nothing in (None, {}, {"format": None, "verbosity": None}, {"format": {"type": "text"}}):
        assert text_fields(nothing) == ({}, plain)
    body, text = text_fields({"format": {"type": "json_object"}, "verbosity": "low"})
    assert body == {"response_format": {"type": "json_object"}, "verbosity": "low"}
    assert text["verbosity"] == "low"
    form = {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True, "description": "d"}
    body, text = text_fields({"format": form})
    inner = {"name": "n", "schema": SCHEMA, "strict": True, "description": "d"}
    assert body == {"response_format": {"type": "json_schema", "json_schema": inner}}
    assert text["format"] == form


@pytest.mark.parametrize(
    ("text", "param"),
    [
        (7, "text"),
        ({"format": 7}, "text.format"),
        ({"format": {"type": "xml"}}, "text.format.type"),
        ({"format": {"type": "json_schema", "schema": {}}}, "text.format.name"),
        ({"format": {"type": "json_schema", "name": "n"}}, "text.format.schema"),
        ({"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": 1}}, "text.format.strict"),
        ({"verbosity": "loud"}, "text.verbosity"),
    ],
)
def test_wrong_forms_are_named(text: Any, param: str) -> None:
    """A wrong `text` is a 400 with its place."""
    with pytest.raises(InvalidRequest) as caught:
        text_fields(text)
    assert caught.value.param == param
