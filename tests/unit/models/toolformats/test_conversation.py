"""Tools told in words: what a model without a format of its own reads."""

from __future__ import annotations

from typing import Any

from exo_node.models.toolformats.conversation import calls_as_text, rules, spoken, with_rules
from exo_node.models.toolformats.hermes import FRAME
from exo_node.types import ToolUse

TOOLS = ({"type": "function", "function": {"name": "add", "description": "Adds", "parameters": {"type": "object"}}},)


def call(name: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_rules_name_every_tool_and_the_choice() -> None:
    """Names, descriptions, schemas, the form of a call, and what is wanted."""
    auto = rules(ToolUse(tools=TOOLS), FRAME)
    assert '{"name": "add", "description": "Adds", "arguments": {"type": "object"}}' in auto
    assert FRAME.write([("NAME", '{"ARGUMENT": VALUE}')]) in auto
    assert "plain text" in auto
    assert "Call a function now. Call one" in rules(ToolUse(tools=TOOLS, choice="required", parallel=False), FRAME)
    assert "Call the function add now." in rules(ToolUse(tools=TOOLS, choice="add", named=True), FRAME)


def test_where_the_rules_stand() -> None:
    """At the end of the system message, in one of their own, or with the user's first words."""
    system: dict[str, Any] = {"role": "system", "content": "Be kind."}
    user: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert with_rules([system, user], "R", knows_system=True)[0] == {"role": "system", "content": "Be kind.\n\nR"}
    assert with_rules([user], "R", knows_system=True) == [{"role": "system", "content": "R"}, user]
    assert with_rules([user], "R", knows_system=False) == [{"role": "user", "content": "R\n\nHi"}]


def test_calls_and_results_in_words() -> None:
    """Calls as the model would have written them; results, and what the user says to them, are one message."""
    told = spoken(
        [
            {"role": "user", "content": "1 + 1?"},
            {"role": "assistant", "content": "So:", "tool_calls": [call("add", '{"a": 1}')]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
            {"role": "tool", "tool_call_id": "2", "content": "3"},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": "2"},
        ],
        FRAME,
    )
    assert [one["role"] for one in told] == ["user", "assistant", "user", "assistant"]
    assert told[1]["content"] == "So:\n" + FRAME.write([("add", '{"a": 1}')])
    assert told[2]["content"] == ("<tool_response>\n2\n</tool_response>\n<tool_response>\n3\n</tool_response>\nAnd?")
    assert calls_as_text({"role": "assistant", "content": "", "tool_calls": [call("add")]}, FRAME) == {
        "role": "assistant",
        "content": FRAME.write([("add", "{}")]),
    }
