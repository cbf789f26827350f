"""Tools and tool_choice: what is read, and what is refused with which field named."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.api.tools import parse_tool_use
from exo_node.errors import InvalidRequest

F: dict[str, Any] = {"type": "function", "function": {"name": "f", "description": "d", "strict": True}}
G: dict[str, Any] = {"type": "function", "function": {"name": "g", "parameters": {"$schema": "x", "required": ["a"]}}}


def test_tools_are_normalised() -> None:
    """Parameters are always an object's schema; `$schema` and `strict` say nothing to a model, `strict` binds it."""
    use = parse_tool_use({"tools": [F, G]})
    assert use is not None
    assert [tool["function"] for tool in use.tools] == [
        {
            "name": "f",
            "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
            "description": "d",
        },
        {"name": "g", "parameters": {"type": "object", "required": ["a"]}},
    ]
    assert (use.choice, use.named, use.parallel, use.strict) == ("auto", False, True, frozenset({"f"}))
    some = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"function": {"name": "g"}}]}}
    use = parse_tool_use({"tools": [F, G], "tool_choice": some})
    assert use is not None
    assert not use.strict


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ("auto", False, 2)),
        ("none", ("none", False, 2)),
        ("required", ("required", False, 2)),
        ({"type": "function", "function": {"name": "g"}}, ("g", True, 2)),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"function": {"name": "g"}}]}},
            ("required", False, 1),
        ),
    ],
)
def test_choices(choice: Any, expected: tuple[str, bool, int]) -> None:
    """Every form of tool_choice."""
    use = parse_tool_use({"tools": [F, G], "tool_choice": choice, "parallel_tool_calls": False})
    assert use is not None
    assert (use.choice, use.named, len(use.tools)) == expected
    assert not use.parallel


def test_nothing_is_offered() -> None:
    """No tools, an empty list or null: nothing to call."""
    empty: list[dict[str, Any]] = [{}, {"tools": []}, {"tools": None, "tool_choice": "auto"}, {"functions": []}]
    for body in empty:
        assert parse_tool_use(body) is None


def test_the_older_form() -> None:
    """`functions` and `function_call`: one call in an answer."""
    use = parse_tool_use({"functions": [{"name": "f"}], "function_call": {"name": "f"}})
    assert use is not None
    assert (use.choice, use.named, use.parallel) == ("f", True, False)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": {}, "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": {"a": 1}}, "tools"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "a", "parameters": 1}}]}, "tools[0].function.parameters"),
        (
            {"tools": [{"function": {"name": "a", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters.type",
        ),
        ({"tools": [F, F]}, "tools"),
        ({"tools": [F], "tool_choice": "some"}, "tool_choice"),
        ({"tools": [F], "tool_choice": 1}, "tool_choice"),
        ({"tools": [F], "tool_choice": {"type": "function"}}, "tool_choice.function.name"),
        ({"tools": [F], "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice.type"),
        ({"tools": [F], "tool_choice": {"function": {"name": "g"}}}, "tool_choice.function.name"),
        ({"tools": [F], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools.tools"),
        (
            {"tools": [F], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [F]}}},
            "tool_choice.allowed_tools.mode",
        ),
        ({"tools": [F], "functions": [{"name": "f"}]}, "functions"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call.name"),
    ],
)
def test_refused(body: dict[str, Any], param: str) -> None:
    """Each wrong offer or choice is a 400 that names the place."""
    with pytest.raises(InvalidRequest) as caught:
        parse_tool_use(body)
    assert caught.value.param == param
