"""What form an answer must have, as the clients of OpenAI, vLLM and llama.cpp ask for it -> `Grammar`. Pure.

A schema is enforced whether `strict` says so or not, and its objects end with the properties that it names. What a
grammar cannot hold is refused where it is compiled (ring/grammars.py), before anything is generated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from exo_node.api.fields import bad, checked_object, checked_text, kind
from exo_node.models.closed_schema import closed
from exo_node.types import Grammar

MAX_CHOICES: Final = 10_000


def grammar_of(body: Mapping[str, Any]) -> Grammar | None:
    """The grammar that the body asks for, under whichever name. Raises `InvalidRequest` that names the field."""
    grammar, first = None, ""
    for name, read in _FIELDS.items():
        value = body.get(name)
        found = None if value is None else read(value, name)
        if found is None:
            continue
        if grammar is not None:
            raise bad(name, f"asks for a form of the answer, and so does {first}; send one of them")
        grammar, first = found, name
    return grammar


def json_schema(value: Any, field: str) -> Grammar:
    """A JSON schema as an object, or as the text of one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise bad(field, "is not a JSON schema: it cannot be read as JSON") from error
    if not isinstance(value, dict):
        raise bad(field, f"must be a JSON schema, an object, not {kind(value)}", code="invalid_type")
    try:
        return Grammar("json_schema", json.dumps(closed(value)), field)
    except RecursionError as error:
        raise bad(field, "is nested too deeply") from error


def _response_format(value: Any, field: str) -> Grammar | None:
    form = checked_object(value, field)
    match wanted := form.get("type"):
        case "text":
            return None
        case "json_object":  # with a schema: llama.cpp's way
            schema = form.get("schema")
            return Grammar("json", field=field) if schema is None else json_schema(schema, f"{field}.schema")
        case "json_schema":
            return _named_schema(form.get("json_schema"), f"{field}.json_schema")
        case "structural_tag" | "grammar" | "python":
            raise bad(f"{field}.type", f"{wanted} is not supported by local models", code="unsupported_parameter")
    raise bad(f"{field}.type", "must be text, json_object or json_schema")


def _named_schema(value: Any, field: str) -> Grammar:
    """OpenAI's `{"name", "description", "schema", "strict"}`; without a schema any object will do."""
    if value is None:
        raise bad(field, "is required", code="missing_required_parameter")
    form = checked_object(value, field)
    name, strict, schema = form.get("name"), form.get("strict"), form.get("schema")
    if name is None:
        raise bad(f"{field}.name", "is required", code="missing_required_parameter")
    if not checked_text(name, f"{field}.name"):
        raise bad(f"{field}.name", "must not be an empty string")
    if form.get("description") is not None:
        checked_text(form["description"], f"{field}.description")
    if strict is not None and not isinstance(strict, bool):
        raise bad(f"{field}.strict", f"must be a boolean, not {kind(strict)}", code="invalid_type")
    return Grammar("json", field=field) if schema is None else json_schema(schema, f"{field}.schema")


def _regex(value: Any, field: str) -> Grammar | None:
    text = checked_text(value, field)
    return Grammar("regex", text, field) if text else None


def _grammar(value: Any, field: str) -> Grammar | None:
    """llguidance's Lark, or llama.cpp's GBNF, which is converted."""
    text = checked_text(value, field)
    return Grammar("lark", text, field) if text else None


def _choice(value: Any, field: str) -> Grammar:
    """One of several strings."""
    if not isinstance(value, list):
        raise bad(field, f"must be an array of strings, not {kind(value)}", code="invalid_type")
    if not 0 < len(value) <= MAX_CHOICES:
        raise bad(field, f"must hold 1 to {MAX_CHOICES} strings, not {len(value)}")
    texts = (checked_text(one, f"{field}[{index}]") for index, one in enumerate(value))
    return Grammar("regex", "|".join(map(_literal, texts)), field)


def _literal(text: str) -> str:
    """A regular expression of exactly that text."""
    return "".join(sign if sign.isascii() and sign.isalnum() else f"\\x{{{ord(sign):x}}}" for sign in text)


def _structured_outputs(value: Any, field: str) -> Grammar | None:
    """vLLM's object, of which one member says what is wanted; its switches off mean nothing."""
    form = checked_object(value, field)
    found: list[Grammar] = []
    for name, member in form.items():
        if member is None or member is False:
            continue
        if name == "json_object" and member is True:
            found.append(Grammar("json", field=f"{field}.json_object"))
        elif (read := _OUTPUTS.get(name)) is not None:
            grammar = read(member, f"{field}.{name}")
            found.extend(() if grammar is None else (grammar,))
        else:
            raise bad(f"{field}.{name}", "is not supported by local models", code="unsupported_parameter")
    if len(found) > 1:
        raise bad(field, "asks for several forms of the answer; send one of them")
    return found[0] if found else None


_Read = Callable[[Any, str], Grammar | None]
_OUTPUTS: Mapping[str, _Read] = {"json": json_schema, "regex": _regex, "choice": _choice, "grammar": _grammar}
_FIELDS: Mapping[str, _Read] = {
    "response_format": _response_format,
    "structured_outputs": _structured_outputs,
    "guided_json": json_schema,
    "guided_regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _grammar,
    "json_schema": json_schema,
    "grammar": _grammar,
}
