"""Tools in words."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from exo_node.routing.sidecar import prompted_tools
from exo_node.routing.sidecar.failures import CallFailed
from exo_node.routing.sidecar.prompted_tools import CHECK_S, BadToolCall, Tools, again, prompt, read, tools_of


def tool(name: str = "add", **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties or {"a": {"type": "integer"}}, "required": ["a"]}
    return {"type": "function", "function": {"name": name, "description": "adds", "parameters": schema}}


def offered(**more: Any) -> Tools:
    tools = tools_of({"tools": [tool(), tool("sub")], **more})
    assert tools is not None
    return tools


def call(name: str = "add", **arguments: Any) -> str:
    return json.dumps({"tool_calls": [{"name": name, "arguments": arguments}]})


@pytest.mark.parametrize(
    "text", [call(a=1), f"Sure!\n```json\n{call(a=1)}\n```", '{"x": 1} ' + call(a=1), call(a=1) + " done {"]
)
def test_reads_a_call_anywhere(text: str) -> None:
    """A call is found in fences, sentences and after other objects, and gets an id of its own."""
    (found,) = read(text, offered())
    assert (found["type"], found["function"]) == ("function", {"name": "add", "arguments": '{"a": 1}'})
    assert found["id"].startswith("call_")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (call(a="x"), "'x' is not of type 'integer'"),
        (call(), "'a' is a required property"),
        (call("mul", a=1), "no tool 'mul'; the tools are add, sub"),
        ('{"tool_calls": []}', "at least one"),
        ('{"tool_calls": [{"name": "add", "arguments": {"a": 1', "broken"),
        ('{"tool_calls": [{"name": "add", "arguments": "{"}]}', "not JSON"),
        ('{"tool_calls": ["add"]}', "no tool ''"),
    ],
)
def test_says_what_is_wrong(text: str, problem: str) -> None:
    """A bad call is refused with words that the model can act on."""
    with pytest.raises(BadToolCall, match=problem.replace("'", ".")):
        read(text, offered())


def test_choices() -> None:
    """Text is an answer unless a call is required; a named tool must be the one; none offers no tools."""
    assert read("No tool needed {ok}", offered()) == []
    with pytest.raises(BadToolCall):
        read("No.", offered(tool_choice="required"))
    named = offered(tool_choice={"type": "function", "function": {"name": "sub"}})
    with pytest.raises(BadToolCall, match="sub"):
        read(call(a=1), named)
    assert read(call("sub", a=1), named)
    with pytest.raises(BadToolCall, match="one tool"):
        two = json.dumps({"tool_calls": [{"name": "add", "arguments": {"a": 1}}] * 2})
        read(two, offered(parallel_tool_calls=False))
    assert tools_of({"tools": [tool()], "tool_choice": "none"}) is None


@pytest.mark.parametrize(
    "body",
    [{"tools": [{"type": "function"}]}, {"tools": [tool(a={"type": "no-such"})]}, {"tools": [tool()], "n": 2},
     {"tools": [tool()], "tool_choice": {"function": {"name": "x"}}}],
)  # fmt: skip
def test_malformed_offers(body: dict[str, Any]) -> None:
    """A request that cannot be done is a 400 that names the field."""
    with pytest.raises(CallFailed) as e:
        tools_of(body)
    assert (e.value.failure.status, bool(e.value.failure.param)) == (400, True)


def test_schemas_are_never_fetched() -> None:
    """A $ref to an address is refused, not asked for."""
    tools = tools_of({"tools": [tool(a={"$ref": "http://127.0.0.1:1/schema"})]})
    assert tools is not None
    with pytest.raises(CallFailed, match="refers to"):
        read(call(a=1), tools)


def test_prompt() -> None:
    """Tools stand in the system message, calls and results in words; the second try tells the problem."""
    asked = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    body = {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "assistant", "content": None, "tool_calls": [asked]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "2"}]},
        ],
        "tools": [tool()],
        "stream": True,
        "temperature": 0,
    }
    made = prompt(body, tools_of(body))
    assert set(made) == {"messages", "temperature"}
    system, assistant, result = made["messages"]
    assert system["content"].startswith("Be kind.") and '"name": "add"' in system["content"]
    assert json.loads(assistant["content"])["tool_calls"][0]["arguments"] == {"a": 1}
    assert result == {"role": "user", "content": "Result of tool call c:\n2"}
    second = again(made, "nonsense", "no JSON")["messages"]
    assert [m["role"] for m in second[-2:]] == ["assistant", "user"]
    assert "no JSON" in second[-1]["content"]


def of_schema(schema: Any) -> Tools:
    tools = tools_of({"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]})
    assert tools is not None
    return tools


def doubling(depth: int) -> dict[str, Any]:
    """A schema that is checked 2 ** depth times."""
    refs = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(depth)}
    return {"$defs": {**refs, f"d{depth}": {"type": "object"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ({"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}}, {"x": "a" * 40 + "!"}),
        (doubling(40), {}),
    ],
)
def test_a_schema_without_end_is_refused(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    """A schema whose check takes for ever is the request's fault, found out soon: a worker checks for everybody."""
    tools = of_schema(schema)
    began = time.process_time()
    with pytest.raises(CallFailed, match="takes longer than") as caught:
        read(call("f", **arguments), tools)
    assert caught.value.failure.status == 400
    assert time.process_time() - began < 10 * CHECK_S


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}])
def test_a_schema_that_is_only_itself_is_refused(schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema that refers to itself without end is the request's fault, however slow the machine that finds it."""
    monkeypatch.setattr(prompted_tools, "CHECK_S", 60.0)
    with pytest.raises(CallFailed, match="refers to itself") as caught:
        read(call("f", x=1), of_schema(schema))
    assert caught.value.failure.status == 400


@pytest.mark.parametrize(
    "text",
    [
        '{"tool_calls": [{"name": "f", "arguments": ' + '{"a":' * 3000 + "1" + "}" * 3003,
        '{"a":' * 20_000,
        '{"tool_calls": [{"name": "f", "arguments": {"x": NaN}}]}',
        '{"tool_calls": [{"name": "f", "arguments": {"x": 1e999}}]}',
    ],
)
def test_an_answer_that_nobody_can_read_is_a_bad_call(text: str) -> None:
    """Nesting beyond what can be read and numbers that JSON has not are the model's fault: it is asked again."""
    with pytest.raises(BadToolCall):
        read(text, of_schema({"type": "object"}))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tool_choice": {"type": "function", "function": "add"}}, "tool_choice"),
        ({"tool_choice": "banana"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": "add"}]}, "tools[0]"),
    ],
)
def test_odd_offers_are_refused_by_name(body: dict[str, Any], param: str) -> None:
    """An offer of another shape is the request's fault, and named."""
    with pytest.raises(CallFailed) as caught:
        tools_of({"tools": [tool()], **body})
    assert (caught.value.failure.status, caught.value.failure.param) == (400, param)


@pytest.mark.parametrize("told", [{"id": "a"}, {"id": "a", "function": "add"}, {"id": "a", "function": {}}, "add"])
def test_odd_calls_in_messages_are_refused_by_name(told: Any) -> None:
    """A call in an earlier message without a function and its name is the request's fault, and named."""
    with pytest.raises(CallFailed) as caught:
        prompt({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [told]}]}, None)
    assert (caught.value.failure.status, caught.value.failure.param) == (400, "messages[1].tool_calls[0]")
