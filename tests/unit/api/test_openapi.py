"""api/openapi.py: the document of the API as it is."""

from __future__ import annotations

import json
import re
from typing import Any

import aiohttp
import jsonschema
import pytest

from tests.unit.api.scripted import END, ScriptedBackend, serve_api


@pytest.fixture
async def document() -> Any:
    async with (
        serve_api(ScriptedBackend([END])) as url,
        aiohttp.ClientSession(url) as http,
        http.get("/openapi.json") as answer,
    ):
        assert answer.content_type == "application/json"
        return await answer.json()


def operations(document: Any) -> list[tuple[str, str, Any]]:
    return [(path, method, one) for path, methods in document["paths"].items() for method, one in methods.items()]


async def test_every_route_says_what_it_is(document: Any) -> None:
    """Each operation has a tag of its own room, a summary in words and a unique id; none is left to its path alone."""
    found = operations(document)
    assert len(found) > 60
    ids = [one["operationId"] for _, _, one in found]
    assert len(set(ids)) == len(ids)
    for path, method, one in found:
        assert one["summary"] != path, f"{method} {path} has no docstring"
        names = set(re.findall(r"{(\w+)}", path))
        assert names == {one["name"] for one in one.get("parameters", ()) if one["in"] == "path"}


async def test_every_json_answer_has_a_schema(document: Any) -> None:
    """No answer is just "JSON", a refusal by 501 least of all."""
    bare = [
        f"{method} {path} {status}"
        for path, method, one in operations(document)
        for status, answer in one["responses"].items()
        if not answer["content"].get("application/json", {"schema": True})["schema"]
    ]
    assert bare == []


async def test_a_route_is_described_once_and_its_other_places_named(document: Any) -> None:
    """The same handler under other prefixes is no second operation."""
    assert "/chat/completions" not in document["paths"]
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert "`/api/v1/litellm/chat/completions`" in chat["description"]
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}


async def test_the_schemas_are_json_schemas_that_say_what_is_checked(document: Any) -> None:
    """Every reference leads somewhere, every schema is one, and the chat's bounds are those of the server's 400s."""
    schemas = document["components"]["schemas"]
    for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert reference in schemas
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    chat = schemas["ChatRequest"]
    assert chat["required"] == ["messages"]
    (temperature,) = (one for one in chat["properties"]["temperature"]["anyOf"] if one["type"] == "number")
    assert (temperature["minimum"], temperature["maximum"]) == (0, 2)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": "x"}),
        ("/v1/embeddings", {"input": 5}),
        ("/v1/messages", {"messages": []}),
        ("/v1/responses", {"input": 5}),
        ("/api/chat", {"messages": 5}),
        ("/v1/instances", {"model": 5}),
    ],
)
async def test_what_the_document_forbids_is_refused(document: Any, path: str, body: Any) -> None:
    """A body that breaks the declared schema is a 400 of the dialect's own shape."""
    schemas = document["components"]["schemas"]
    declared = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, {**declared, "components": {"schemas": schemas}})
    async with (
        serve_api(ScriptedBackend([END])) as url,
        aiohttp.ClientSession(url) as http,
        http.post(path, json=body) as answer,
    ):
        assert answer.status == 400
        told = await answer.json()
    wrong = document["paths"][path]["post"]["responses"]["default"]["content"]["application/json"]["schema"]
    jsonschema.validate(told, {**wrong, "components": {"schemas": schemas}})
