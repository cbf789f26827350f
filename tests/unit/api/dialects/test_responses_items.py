"""Input items of the Responses API."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.api.dialects.responses_items import messages_of, read_items, references, response_of, sealed
from exo_node.errors import InvalidRequest

ID = "resp_" + "a" * 32
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "42"}


def chat(value: Any, instructions: str | None = None) -> list[dict[str, Any]]:
    return messages_of(instructions, read_items(value, ID, {}))


def test_a_text_is_a_users_message() -> None:
    """A plain text becomes an item with an id that says its response, and instructions come first."""
    items = read_items("Hello", ID, {})
    assert items == [
        {"type": "message", "id": f"msg_{'a' * 32}i0", "role": "user", "status": "completed",
         "content": [{"type": "input_text", "text": "Hello"}]}
    ]  # fmt: skip
    assert response_of(items[0]["id"]) == ID
    assert chat("Hello", "Be kind") == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "Hello"},
    ]
    assert read_items(None, ID, {}) == []


def test_messages() -> None:
    """With and without `type`, every role, texts and parts, images and files."""
    data = "data:image/png;base64,AA=="
    value = [
        {"role": "developer", "content": "Short"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A"},
                                                             {"type": "refusal", "refusal": "No"}]},
        {"role": "assistant", "content": None},
        {"role": "user", "id": "mine", "content": [
            {"type": "input_text", "text": "See"}, {"type": "input_image", "image_url": data, "detail": None},
            {"type": "input_file", "filename": "a.txt", "file_data": data}]},
    ]  # fmt: skip
    assert chat(value) == [
        {"role": "system", "content": "Short"},
        {"role": "assistant", "content": "ANo"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [
            {"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": data, "detail": "auto"}},
            {"type": "file", "file": {"filename": "a.txt", "file_data": data}}]},
    ]  # fmt: skip
    assert read_items(value, ID, {})[3]["id"] == "mine"


def test_a_turn_with_calls_is_one_message() -> None:
    """Reasoning, text and calls of one turn are one message; outputs follow it, thoughts alone are none."""
    value = [
        {"role": "user", "content": "Sum?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {"role": "assistant", "content": "Wait"},
        CALL,
        {**CALL, "call_id": "c2"},
        OUTPUT,
        {**OUTPUT, "call_id": "c2", "output": [{"type": "input_text", "text": "4"}, {"type": "text", "text": "3"}]},
        {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "gone"}]},
    ]
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": name, "type": "function", "function": function} for name in ("c1", "c2")]
    assert chat(value) == [
        {"role": "user", "content": "Sum?"},
        {"role": "assistant", "content": "Wait", "reasoning_content": "Hm", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "tool", "tool_call_id": "c2", "content": "43"},
    ]
    assert chat([CALL, OUTPUT])[0] == {"role": "assistant", "content": None, "tool_calls": calls[:1]}


def test_a_call_that_was_cut_off_is_none() -> None:
    """What a stored response has of an incomplete call is left out of the next chat."""
    user, call = read_items([{"role": "user", "content": "x"}, CALL], ID, {})
    cut = {**call, "arguments": '{"a', "status": "incomplete"}
    assert messages_of(None, [user, cut, user]) == [{"role": "user", "content": "x"}] * 2


def test_sealed_reasoning_is_read() -> None:
    """Reasoning that comes back as `encrypted_content` only is read, where it is ours."""
    for hidden, content in ((sealed("Hm\u00e4"), "Hm\u00e4"), ("gAAA", None), (None, None)):
        thought: Any = {"type": "reasoning", "summary": [], "content": None, "encrypted_content": hidden}
        assert chat([thought, CALL])[0].get("reasoning_content") == content
    with pytest.raises(InvalidRequest, match="encrypted_content: is damaged"):
        chat([{"type": "reasoning", "summary": [], "encrypted_content": "exo1.x"}])


def test_references() -> None:
    """Items are named with and without a type; what is stored takes their place."""
    stored = read_items("Hello", ID, {})[0]
    value = [{"id": stored["id"]}, {"type": "item_reference", "id": stored["id"]}, {"role": "user", "content": "x"}]
    assert references(value) == [stored["id"]] * 2
    assert references("text") == []
    assert read_items(value[:2], ID, {stored["id"]: stored}) == [stored, stored]
    with pytest.raises(InvalidRequest, match=r"input\[0\].id: no item 'msg_x' is stored"):
        read_items([{"id": "msg_x"}], ID, {})


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (7, "input[0]"),
        ({"role": "tool", "content": ""}, "input[0].role"),
        ({"role": "user", "content": None}, "input[0].content"),
        ({"role": "user", "content": [7]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[0].content[0].text"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "input[0].content[0].type"),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, "input[0].content[0].file_id"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input[0].content[0].image_url"),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "u", "detail": "original"}]},
            "input[0].content[0].detail",
        ),
        ({"role": "user", "content": [{"type": "input_file", "file_url": "u"}]}, "input[0].content[0].file_url"),
        ({"role": "user", "content": [{"type": "input_file"}]}, "input[0].content[0].file_data"),
        ({"role": "assistant", "content": [{"type": "input_image", "image_url": "u"}]}, "input[0].content[0].type"),
        ({"type": "computer_call"}, "input[0].type"),
        ({"type": "function_call", "call_id": "c", "name": "f"}, "input[0].arguments"),
        ({"type": "function_call_output", "output": ""}, "input[0].call_id"),
        ({**OUTPUT, "output": {}}, "input[0].output"),
        ({**OUTPUT, "output": [{"type": "input_image", "image_url": "u"}]}, "input[0].output[0].type"),
        ({"type": "reasoning", "summary": [7]}, "input[0].summary"),
        (OUTPUT, "input"),
    ],
)
def test_what_cannot_be_taken_is_named(item: Any, param: str) -> None:
    """A wrong item is a 400 with its place."""
    with pytest.raises(InvalidRequest) as caught:
        chat([item])
    assert (caught.value.param, caught.value.status) == (param, 400)
    with pytest.raises(InvalidRequest, match="must be a string or an array of items, not an integer"):
        read_items(7, ID, {})
