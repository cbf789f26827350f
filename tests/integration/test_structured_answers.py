"""Answers bound to a form by real nodes: the bundled model on each engine, and on a ring of two with one of each."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest

from tests.integration.harness import NodeProcess
from tests.integration.random_schemas import random_schema
from tests.integration.shared_rings import SharedRing, on_rings

HELLO: Any = [{"role": "user", "content": "Give me one."}]
PERSON: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colours": {"type": "array", "items": {"$ref": "#/$defs/colour"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "colours"],
    "additionalProperties": False,
    "$defs": {"colour": {"enum": ["red", "green"]}},
}
RINGS = ("mlx", "tinygrad", "tinygrad-mlx")
pytestmark = on_rings(*RINGS)
DEFAULT_SCHEMAS, ALL_SCHEMAS, MOST_TOKENS = 20, 500, 700
CHECK = jsonschema.Draft202012Validator.FORMAT_CHECKER


@pytest.fixture
def node(shared_ring: SharedRing) -> NodeProcess:
    """A node that has the model, alone or as the head of a ring of two."""
    shared_ring.place("demo")
    return shared_ring.cluster[0]


def form(schema: Any, **more: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, **more}}


def ask(node: NodeProcess, **fields: Any) -> list[str]:
    """The texts of all choices, which must have ended by themselves."""
    status, body = node.request(
        "POST",
        "/v1/chat/completions",
        {"model": "demo", "messages": HELLO, "max_tokens": 300, "seed": 1, **fields},
        timeout=900,  # pytest's own limit comes first
    )
    assert status == 200, body
    assert {choice["finish_reason"] for choice in body["choices"]} == {"stop"}
    return [choice["message"]["content"] for choice in body["choices"]]


def test_a_schema_holds_for_every_choice(node: NodeProcess) -> None:
    """Each of n answers is its own and validates; with a seed it is the same again, and with the mask's company."""
    asked: dict[str, Any] = {"response_format": form(PERSON, strict=True), "n": 4, "temperature": 1}
    texts = ask(node, **asked)
    for text in texts:
        jsonschema.validate(json.loads(text), PERSON)
    assert len(set(texts)) > 1
    assert ask(node, **asked) == texts
    assert ask(node, **{**asked, "n": 1, "seed": 3}) == texts[2:3]


def test_a_stream_is_the_whole_answer(node: NodeProcess) -> None:
    """Piece by piece the same text, with the SDK's own helper reading it."""
    chat = node.client().chat.completions
    asked: dict[str, Any] = {"model": "demo", "messages": HELLO, "response_format": form(PERSON), "seed": 5}
    whole = chat.create(**asked, logprobs=True)
    with chat.stream(**asked) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 5
    assert whole.choices[0].logprobs is not None
    assert all(one.logprob <= 0 for one in whole.choices[0].logprobs.content or ())


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": "[a-c]{2}-\\d{3}!"}, "[a-c]{2}-[0-9]{3}!"),
        ({"guided_choice": ["yes", "no", "may be (not)"]}, r"yes|no|may be \(not\)"),
        ({"structured_outputs": {"choice": ["\u00e9t\u00e9"]}}, "\u00e9t\u00e9"),
        ({"grammar": 'root ::= "<" word ">"\nword ::= [a-z] [a-z]? [a-z]?'}, "<[a-z]{1,3}>"),
        ({"guided_grammar": 'start: "f(" %json {"type": "boolean"} ")"'}, r"f\((true|false)\)"),
        ({"guided_json": {"type": "integer", "minimum": 5, "maximum": 30}}, "[5-9]|[12][0-9]|30"),
        ({"json_schema": {"const": {"a": [1]}}}, r'\{"a": \[1\]\}'),
    ],
)
def test_other_forms(node: NodeProcess, fields: dict[str, Any], pattern: str) -> None:
    """vLLM's and llama.cpp's fields, greedy and at a temperature at which anything else would come."""
    for temperature in (0, 2):
        (text,) = ask(node, temperature=temperature, **fields)
        assert re.fullmatch(pattern, text), text


def test_any_object(node: NodeProcess) -> None:
    """`json_object` needs no word of JSON in the prompt; completions take it too."""
    answer = node.client().completions.create(
        model="demo", prompt="Once", seed=2, max_tokens=200, extra_body={"response_format": {"type": "json_object"}}
    )
    assert answer.choices[0].text.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].text), dict)


def test_a_limit_and_a_stop_string_cut_it(node: NodeProcess) -> None:
    """`length` says that the answer is not whole; a stop string ends it as it ends any."""
    chat = node.client().chat.completions
    cut = chat.create(model="demo", messages=HELLO, response_format=form(PERSON), max_tokens=4)
    assert cut.choices[0].finish_reason == "length"
    assert (cut.choices[0].message.content or "").startswith('{"')
    stopped = chat.create(model="demo", messages=HELLO, response_format=form(PERSON), stop=[', "age'])
    assert stopped.choices[0].finish_reason == "stop"
    assert re.fullmatch(r'\{"name": ".{1,30}"', stopped.choices[0].message.content or "")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": form({"type": "object", "not": {}})}, "response_format.json_schema.schema", "keyword not"),
        ({"guided_json": {"uniqueItems": True, "if": {}}}, "guided_json", "uniqueItems"),
        ({"guided_json": {"$ref": "#/nowhere"}}, "guided_json", "nowhere"),
        ({"guided_regex": "a("}, "guided_regex", "unclosed group"),
        ({"guided_grammar": "start: missing"}, "guided_grammar", "missing"),
        ({"guided_json": {"enum": ["x" * 1000] * 1100}}, "guided_json", "at most 1048576"),
    ],
)
def test_what_cannot_be_held_is_refused_before_the_first_word(
    node: NodeProcess, stream: bool, fields: dict[str, Any], param: str, words: str
) -> None:
    """A 400 with the field and what is wrong, for streams too."""
    create: Any = node.client().chat.completions.create
    known = {name: value for name, value in fields.items() if name == "response_format"}
    rest = {name: value for name, value in fields.items() if name not in known}
    with pytest.raises(openai.BadRequestError) as caught:
        create(model="demo", messages=HELLO, stream=stream, extra_body=rest, **known)
    assert caught.value.param == param
    assert words in caught.value.message


def check_schemas(node: NodeProcess, numbers: range) -> None:
    """Every answer to these random schemas validates and ends by itself."""

    def check(number: int) -> None:
        schema = random_schema(number)
        (text,) = ask(node, response_format=form(schema), temperature=1, seed=number, max_tokens=MOST_TOKENS)
        jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator, format_checker=CHECK)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, numbers))


def test_random_schemas(node: NodeProcess, request: pytest.FixtureRequest) -> None:
    """Nested objects, enums, patterns, references, arrays, formats, unions: each ring some of the five hundred."""
    first = DEFAULT_SCHEMAS * RINGS.index(request.node.callspec.params["shared_ring"])
    check_schemas(node, range(first, first + DEFAULT_SCHEMAS))


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_five_hundred_random_schemas(node: NodeProcess) -> None:
    """All of them: pytest -m soak tests/integration/test_structured_answers.py"""
    check_schemas(node, range(ALL_SCHEMAS))
