"""Grammars in llguidance's form, and what it says of them in ours. Imports the library, not numpy."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, Final

import llguidance
from llguidance.gbnf_to_lark import any_to_lark

from exo_node.errors import InvalidRequest
from exo_node.models.toolformats.lark import STYLE, roomy
from exo_node.models.unheld_schema import with_keyword
from exo_node.types import Grammar

MAX_LEXER_STATES: Final = 50_000  # of 1 to 2 kB each
MAX_ITEMS: Final = 20_000  # an object takes 4 for each property that may be left out; such a mask takes 30 ms
MAX_ERROR: Final = 400  # characters
UNHELD: Final = "unheld: "  # before a problem that unheld_schema has found
_PLACE, _CONTEXT = re.compile(r"^at \d+\(\d+\): "), re.compile(r"\s*\d+ \| ")  # of a mistake in Lark
_ONE_OF, _FORMAT = "oneOf constraints are not supported", "Unknown format: "  # as llguidance says it


def limits() -> llguidance.LLParserLimits:
    """The library's own, less memory, larger objects; `verbose_errors` would print the whole grammar."""
    return llguidance.LLParserLimits(
        max_lexer_states=MAX_LEXER_STATES, max_items_in_row=MAX_ITEMS, verbose_errors=False
    )


def to_llguidance(grammar: Grammar, *, flexible: bool = False) -> str:
    """The grammar in llguidance's form; `flexible` allows any white space in JSON.

    Raises `ValueError` where it cannot be read. That it can does not mean that it is right.
    """
    matcher = llguidance.LLMatcher
    match grammar.kind:
        case "regex":
            return matcher.grammar_from_regex(grammar.text)
        case "may_call":
            return matcher.grammar_from_lark(roomy(grammar.text) if flexible else grammar.text)
        case "lark":
            try:
                return matcher.grammar_from_lark(any_to_lark(roomy(grammar.text) if flexible else grammar.text))
            except Exception as error:  # the converter raises bare Exception, and RecursionError
                raise ValueError(f"it is neither Lark nor GBNF: {error}") from error
        case "json":
            text = '{"type": "object"}'
        case "json_schema":
            text = grammar.text
        case _:
            raise ValueError(f"{grammar.kind!r} is no kind of grammar that this version knows")
    if flexible or not text.lstrip().startswith("{"):  # options are for objects: true and false are schemas too
        return matcher.grammar_from_json_schema(text)
    return matcher.grammar_from_json_schema(text, STYLE)


def schemas_of(grammar: Grammar) -> list[dict[str, Any]]:
    """The JSON schemas in it, as far as they can be read: the grammar of tools has one a line."""
    texts = re.findall(r"%json (\{.*\})$", grammar.text, re.MULTILINE) if grammar.kind in ("lark", "may_call") else []
    found = []
    for text in [grammar.text] if grammar.kind == "json_schema" else texts:
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(text))
    return [one for one in found if isinstance(one, dict)]


def refusal(grammar: Grammar, problem: str) -> InvalidRequest:
    """The 400 for what llguidance says of a grammar, in one line that names the field."""
    if said := _unsupported(grammar, problem):
        return InvalidRequest(f"{grammar.field}: {said}", param=grammar.field, code="unsupported_parameter")
    lines = [line for line in problem.splitlines() if line.strip() and line.strip() not in ("^", "<non-verbose/>")]
    if grammar.field == "tools":  # its lines are ours, not the caller's
        lines = [_PLACE.sub("", line) for line in lines if not _CONTEXT.match(line)]
    said = " ".join(" ".join(lines).split())[:MAX_ERROR] or "it cannot be read"
    return InvalidRequest(f"{grammar.field}: {said}", param=grammar.field)


def _unsupported(grammar: Grammar, problem: str) -> str:
    """What local models cannot hold and another backend may, in our words; empty for any other problem."""
    if problem.startswith(UNHELD):
        return f"local models cannot hold {problem.removeprefix(UNHELD)}"
    if problem.startswith(_ONE_OF):
        why = "is not supported by local models where more than one of its schemas may match: use anyOf"
        return f"the keyword oneOf{_place(grammar, 'oneOf')} {why}"
    if problem.startswith(_FORMAT):
        name = problem.removeprefix(_FORMAT).split("\n")[0]
        return f"the format {name}{_place(grammar, 'format', name)} is not supported by local models"
    _before, found, keys = problem.partition("Unimplemented keys: ")
    if not found:
        return ""
    names = keys.partition("]")[0].strip('["').replace('"', "").split(", ")
    words, verb = ("keyword", "is") if len(names) == 1 else ("keywords", "are")
    return f"the {words} {', '.join(names)}{_place(grammar, names[0])} {verb} not supported by local models"


def _place(grammar: Grammar, keyword: str, value: str | None = None) -> str:
    return next(filter(None, (with_keyword(one, keyword, value) for one in schemas_of(grammar))), "")
