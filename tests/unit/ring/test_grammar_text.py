"""Grammars in llguidance's form, and its complaints in ours."""

from __future__ import annotations

from typing import Any

import llguidance
import pytest

from exo_node.ring.grammar_text import UNHELD, limits, refusal, to_llguidance
from exo_node.types import Grammar


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json"),
        Grammar("json_schema", '{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}'),
        Grammar("json_schema", '{"$defs": {"a": {"enum": [1]}}, "$ref": "#/$defs/a"}'),
        Grammar("regex", "^a/b$"),
        Grammar("lark", 'start: "a" %json {"type": "null"}'),
        Grammar("lark", 'root ::= [a-z]+ item*\nitem ::= "," root'),
    ],
)
def test_every_kind_is_read(grammar: Grammar) -> None:
    """JSON schemas with what clients put beside them, regular expressions, Lark and llama.cpp's GBNF."""
    assert llguidance.LLMatcher.validate_grammar(to_llguidance(grammar), None, limits=limits()) == ""


@pytest.mark.parametrize("grammar", [Grammar("lark", "a := b"), Grammar("json_schema", "{")])
def test_what_cannot_be_read_says_why(grammar: Grammar) -> None:
    """Neither Lark nor GBNF; not JSON."""
    with pytest.raises(ValueError, match=r"."):
        to_llguidance(grammar)


def test_an_unknown_kind_is_refused() -> None:
    """A newer node may ask for what this version does not know."""
    kind: Any = "abnf"
    with pytest.raises(ValueError, match="abnf"):
        to_llguidance(Grammar(kind))


def test_an_unsupported_keyword_is_named_with_its_field() -> None:
    """And another backend may be asked: it is no mistake of the caller's."""
    error = refusal(Grammar("json_schema", field="guided_json"), 'Unimplemented keys: ["not", "if"]')
    assert (error.param, error.code, error.status) == ("guided_json", "unsupported_parameter", 400)
    assert error.message == "guided_json: the keywords not, if are not supported by local models"


def test_the_place_of_a_keyword_is_told() -> None:
    """As a JSON pointer into the schema, for tools too; alternatives that may both match are told what to do."""
    inner = '{"type": "object", "properties": {"a": {"not": {}}}}'
    for grammar in (Grammar("json_schema", inner), Grammar("lark", f"start: x\nx: %json {inner}\n", "tools")):
        message = refusal(grammar, 'Unimplemented keys: ["not"]').message
        assert message == f"{grammar.field}: the keyword not at /properties/a is not supported by local models"
    checker = llguidance.LLMatcher
    both = Grammar("json_schema", '{"items": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}')
    error = refusal(both, checker.validate_grammar(to_llguidance(both), None, limits=limits()))
    assert "the keyword oneOf at /items is not supported" in error.message
    assert error.message.endswith("use anyOf")
    path = Grammar("json_schema", '{"items": {"anyOf": [{"format": "date"}, {"type": "string", "format": "path"}]}}')
    error = refusal(path, checker.validate_grammar(to_llguidance(path), None, limits=limits()))
    assert error.message == "response_format: the format path at /items/anyOf/1 is not supported by local models"
    assert refusal(Grammar("json"), UNHELD + "const: 1").code == "unsupported_parameter"
    assert error.code == "unsupported_parameter"


def test_any_other_complaint_is_one_short_line() -> None:
    """Without the marks below the source and without whole grammars in it."""
    error = refusal(
        Grammar("regex", field="guided_regex"), "regex parse error:\n    a(\n     ^\nerror: unclosed " + "x" * 5000
    )
    assert error.message.startswith("guided_regex: regex parse error: a( error: unclosed x")
    assert len(error.message) < 500
    assert refusal(Grammar("regex"), "").message == "response_format: it cannot be read"


def test_the_lines_of_our_own_grammar_are_not_shown() -> None:
    """A mistake in a tool's schema is told without the rules around it."""
    problem = "at 2(3): failed to compile JSON schema: Pointer '/a' does not exist\n  1 | call: x\n  2 | x: %json\n  ^"
    assert refusal(Grammar("lark", field="tools"), problem).message == (
        "tools: failed to compile JSON schema: Pointer '/a' does not exist"
    )
    assert "call: x" in refusal(Grammar("lark", field="guided_grammar"), problem).message
