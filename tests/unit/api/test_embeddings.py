"""Embeddings and rerank: relayed, and made to be what was asked for where the backend's answer is not."""

from __future__ import annotations

import base64
import struct
from typing import Any

import aiohttp
import orjson
import pytest

from exo_node.api.embeddings import encoded, with_documents
from exo_node.errors import ExoError
from exo_node.routing.call import UpstreamError, Whole
from tests.unit.api.scripted import END, ScriptedBackend, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting, whole

VECTOR = [0.5, -1.25]
BASE64 = base64.b64encode(struct.pack("<2f", *VECTOR)).decode()


def answer_with(*vectors: Any) -> Whole:
    data = {"object": "list", "data": [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]}
    return Whole(b"as it came", data)


def test_what_fits_is_relayed() -> None:
    """No byte changes where the encoding is the asked one."""
    for vector, wanted in ((VECTOR, "float"), (BASE64, "base64")):
        assert encoded(answer_with(vector), wanted).raw == b"as it came"


def test_what_does_not_fit_is_recoded() -> None:
    """Arrays become base64 of little-endian float32, and the other way round."""
    assert orjson.loads(encoded(answer_with(VECTOR, VECTOR), "base64").raw)["data"][1]["embedding"] == BASE64
    assert orjson.loads(encoded(answer_with(BASE64), "float").raw)["data"][0]["embedding"] == VECTOR


NO_NUMBER = base64.b64encode(struct.pack("<2f", 0.5, float("nan"))).decode()


@pytest.mark.parametrize(
    "wrong", [Whole(b"{"), Whole(b"[]"), Whole(b"", {"data": [{}]}), answer_with("%%%"), answer_with(NO_NUMBER)]
)
def test_what_is_no_embedding(wrong: Whole) -> None:
    """A backend that answers something else is said to have done so."""
    with pytest.raises(UpstreamError):
        encoded(wrong, "float")


def test_documents_come_back_when_wanted() -> None:
    """`return_documents` is fulfilled for backends that dropped it; those that did it are left alone."""
    body = {"documents": ["a", {"text": "b"}], "return_documents": True}
    came = Whole(b"x", {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "document": {"text": "A"}}]})
    rows = orjson.loads(with_documents(came, body).raw)["results"]
    assert [row["document"] for row in rows] == [{"text": "b"}, {"text": "A"}]
    assert with_documents(came, {**body, "return_documents": False}).raw == b"x"
    for results in (None, [{"index": 2}], [5]):
        with pytest.raises(ExoError):
            with_documents(Whole(b"x", {"results": results}), body)


async def test_routes() -> None:
    """Document 002's body with its provider, at its path; rerank as Cohere's clients send it."""
    routing = ScriptedRouting()
    routing.replies = [
        whole({"object": "list", "data": [{"index": 0, "embedding": VECTOR}]}),
        whole({"results": [{"index": 0, "relevance_score": 0.5}]}),
    ]
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        body: dict[str, Any] = {"input": "Hello world", "model": "text-embedding-3-small", "provider": "openai"}
        async with http.post("/api/v1/litellm/embeddings", json={**body, "encoding_format": "base64"}) as answer:
            assert (await answer.json())["data"][0]["embedding"] == BASE64
            assert answer.headers["x-exo-backend"] == "scripted"
        body = {"model": "rerank-english", "query": "q", "documents": ["a"], "top_n": 1}
        async with http.post("/v1/rerank", json=body) as answer:
            assert (await answer.json())["results"][0]["relevance_score"] == 0.5
    first, second = routing.calls
    assert (first.kind, first.model, first.wishes.provider) == ("embedding", "text-embedding-3-small", "openai")
    assert "provider" not in first.body
    assert (second.kind, sorted(second.needs)) == ("rerank", ["rerank"])
