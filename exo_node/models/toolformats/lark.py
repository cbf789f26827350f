"""Grammars of answers, in the Lark dialect of llguidance: forced calls, and what comes after free thoughts. Pure.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from exo_node.errors import InvalidRequest
from exo_node.models.closed_schema import closed
from exo_node.models.toolformats.base import Frame
from exo_node.models.toolformats.thoughts import Marks
from exo_node.types import Grammar, ToolUse

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

SpecialTokens = Mapping[str, int]  # name -> id, of the tokens that no text is tokenized to
# JSON as models are trained to write it (Python's json.dumps): small models fill any white space that is left open, for
# as long as it is. A schema of an answer may say otherwise with its own `x-guidance`.
STYLE: Final[JsonCompileOptions] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ROOMY = {"whitespace_pattern": r"( |\n {0,16})?"}
ANY: Final = "/(?s:.*)/"
_ARGUMENTS = re.compile(r"^(arguments|strict)_\d+: %json (\{.*\})$", re.MULTILINE)
# JSON Schema's keywords that bind nothing, those that hold schemas by name, and those that hold plain values.
_SAYS_NOTHING = frozenset({"$schema", "$comment", "title", "description", "default", "examples"})
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LITERAL = frozenset({"enum", "const"})


def of_calls(frame: Frame, use: ToolUse, special: SpecialTokens, *, mark: str = "") -> str:
    """Rules of at least one call of an allowed tool, `calls` first: the arguments of each match its schema.

    `mark`: the text of the first one's beginning that is there already, with any white space after it.
    """
    functions = [tool["function"] for tool in use.tools]
    if use.named or use.choice not in ("auto", "required"):
        functions = [one for one in functions if one["name"] == use.choice]
    many = use.parallel and not frame.single
    more = f"({literal(frame.separator, special)} call)*" if many else ""
    first = "first" if mark and not frame.begin else "call"
    kinds = [one for one in ("first", "call") if one == first or (one == "call" and many)]
    begin, end = literal(_past(frame.begin, mark), special), literal(frame.end, special)
    rules = [f"calls: {begin} {first} {more} {end}"]
    rules += [f"{one}: " + " | ".join(f"{one}_{i}" for i in range(len(functions))) for one in kinds]
    after = literal(frame.after, special)
    for i, function in enumerate(functions):
        arguments = "strict" if function["name"] in use.strict else "arguments"
        for one in kinds:
            before = frame.before(function["name"])
            before = literal(_past(before, mark) if one == "first" else before, special)
            rules.append(f"{one}_{i}: {before} {arguments}_{i} {after}")
        rules.append(f"{arguments}_{i}: %json {json.dumps(styled(function['parameters']))}")
    return "\n".join(rules)


def _past(text: str, mark: str) -> str:
    return text.removeprefix(mark).lstrip() if mark else text


def of_answer(grammar: Grammar) -> str:
    """A rule `answer` for a grammar of the answer. Raises `InvalidRequest` for one that cannot be a part of another."""
    if grammar.kind == "json_schema":
        return f"answer: %json {json.dumps({'x-guidance': STYLE, **json.loads(grammar.text)})}"
    if grammar.kind == "json":
        return f"answer: %json {json.dumps({'x-guidance': STYLE, 'type': 'object'})}"
    if grammar.kind == "regex":
        return f"answer: /{_unslashed(grammar.text)}/"
    raise InvalidRequest(
        f"{grammar.field}: binds the whole answer: no thoughts or tool calls can come with a grammar of one's own",
        param=grammar.field,
        code="unsupported_parameter",
    )


def schemas(text: str) -> list[tuple[bool, str]]:
    """The schemas in a grammar of calls: (whether it is of a strict tool, its text), in their order."""
    return [(name == "strict", schema) for name, schema in _ARGUMENTS.findall(text)]


def loosened(text: str, which: Collection[int]) -> str:
    """The grammar of calls with any object for those of its schemas."""
    count = itertools.count()

    def any_object(found: re.Match[str]) -> str:
        schema = json.dumps({"type": "object", "x-guidance": STYLE}) if next(count) in which else found[2]
        return found[0].removesuffix(found[2]) + schema

    return _ARGUMENTS.sub(any_object, text)


def roomy(text: str) -> str:
    """The grammar with some white space allowed where ours allows one: another backend has begun the answer."""
    return text.replace(json.dumps(STYLE), json.dumps(_ROOMY))


def styled(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without what binds nothing (descriptions are most of a large one), with our rules for white space."""
    return {**closed(_bare(schema)), "x-guidance": STYLE}


def _bare(schema: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _SAYS_NOTHING or (value is None and key != "const"):  # Go's clients write "required": null
            continue
        if key in _MAPS and isinstance(value, Mapping):
            made[key] = {name: _bare(one) if isinstance(one, Mapping) else one for name, one in value.items()}
        elif key not in _LITERAL and isinstance(value, Mapping):
            made[key] = _bare(value)
        elif key not in _LITERAL and isinstance(value, list):
            made[key] = [_bare(one) if isinstance(one, Mapping) else one for one in value]
        else:
            made[key] = value
    return made


def after_thoughts(marks: Marks, special: SpecialTokens, *, inside: bool) -> str:
    """A rule `thoughts`: free text up to the closing mark, where the model thinks at all."""
    if marks.close in special:
        body = f"FREE {literal(marks.close, special)} BLANK"
        rules = f"FREE: {ANY}\nBLANK: /\\s*/"
    else:
        body = "thought BLANK"
        rules = f"thought[suffix={quoted(marks.close)}]: {ANY}\nBLANK: /\\s*/"
    if not inside:
        body = f"({literal(marks.open, special)} {body})?"
    return f"thoughts: {body}\n{rules}"


def literal(text: str, special: SpecialTokens) -> str:
    """Lark for exactly this text, its special tokens as tokens."""
    if not text:
        return ""
    names = [name for name in special if name and name in text]
    if not names:
        return quoted(text)
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    pieces = re.split(f"({pattern})", text)
    return " ".join(f"<[{special[one]}]>" if one in special else quoted(one) for one in pieces if one)


def quoted(text: str) -> str:
    """Lark for exactly this text, as characters."""
    return json.dumps(text, ensure_ascii=False)


def _unslashed(pattern: str) -> str:
    return re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern)
