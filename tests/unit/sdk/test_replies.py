"""Answers read by attribute and by key."""

from __future__ import annotations

import pytest

from exo_node.sdk.replies import wrap


def test_both_ways_of_reading() -> None:
    """`.choices[0].message.content` and `["choices"][0]["message"]["content"]` are the same."""
    reply = wrap({"choices": [{"message": {"content": "hi"}}]})
    assert reply.choices[0].message.content == reply["choices"][0]["message"]["content"] == "hi"
    assert reply.get("nothing") is None


def test_fields_that_may_be_absent_read_as_none_and_others_do_not() -> None:
    """A delta without content is None, as OpenAI's SDK has it; a mistyped field says what there is."""
    delta = wrap({"delta": {"role": "assistant"}}).delta
    assert delta.content is None
    with pytest.raises(AttributeError, match="no field 'contnet'; it has role"):
        _ = delta.contnet
