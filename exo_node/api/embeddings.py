"""Embeddings and reranking: relayed, with what a backend left out of the request's wishes made up for here.

Shapes: https://platform.openai.com/docs/api-reference/embeddings , https://docs.cohere.com/reference/rerank (Jina's is
the same where they overlap).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from array import array
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from exo_node.api.operations import operation
from exo_node.api.schemas import answers
from exo_node.api.schemas import openai as schemas
from exo_node.api.serving import CallServer, object_of, read_object, respond_whole, whole_of
from exo_node.routing.call import UpstreamError, Whole


class EmbeddingRoutes:
    def __init__(self, serving: CallServer) -> None:
        self._serving = serving

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [("POST", "/embeddings", self.embeddings), ("POST", "/rerank", self.rerank)]

    @operation("OpenAI", scope="use", body=schemas.EmbeddingRequest, answer=answers.Embeddings, checked_later=True)
    async def embeddings(self, request: web.Request) -> web.Response:
        """Texts as vectors."""
        call = self._serving.call(request, "embedding", await read_object(request))
        reply = await self._serving.reply(call)
        whole = encoded(whole_of(reply), call.body.get("encoding_format") or "float")
        return respond_whole(whole, reply.headers)

    @operation("OpenAI", scope="use", body=schemas.RerankRequest, answer=answers.Reranked, checked_later=True)
    async def rerank(self, request: web.Request) -> web.Response:
        """Documents by how well they answer a query."""
        call = self._serving.call(request, "rerank", await read_object(request))
        reply = await self._serving.reply(call)
        return respond_whole(with_documents(whole_of(reply), call.body), reply.headers)


def encoded(whole: Whole, wanted: str) -> Whole:
    """The answer with its vectors as `wanted` ("float": arrays, "base64": little-endian float32), whatever came."""
    data = object_of(whole)
    rows = data.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "embedding" in row for row in rows):
        raise UpstreamError("the embeddings came without data[].embedding", "malformed")
    if all(isinstance(row["embedding"], str) == (wanted == "base64") for row in rows):
        return whole
    try:
        rows = [{**row, "embedding": _vector(row["embedding"], wanted)} for row in rows]
    except (TypeError, ValueError, OverflowError) as e:
        raise UpstreamError(f"an embedding that came is no vector: {e}", "malformed") from e
    return _remade(whole, {**data, "data": rows})


def _vector(value: Any, wanted: str) -> str | list[float]:
    if isinstance(value, str) == (wanted == "base64"):
        return value  # type: ignore[no-any-return]
    # array("f") is IEEE 754 float32 in the machine's order, little-endian on every machine that exo-node runs on
    if wanted == "base64":
        return base64.b64encode(array("f", value).tobytes()).decode()
    try:
        vector = array("f", base64.b64decode(value, validate=True)).tolist()
    except binascii.Error as e:
        raise ValueError("not base64") from e
    if not all(map(math.isfinite, vector)):
        raise ValueError("it holds what is no number, which JSON cannot say")
    return vector


def with_documents(whole: Whole, body: Mapping[str, Any]) -> Whole:
    """The answer with the documents in it where the request says `return_documents` and the backend did not."""
    if not body.get("return_documents"):
        return whole
    data, documents = object_of(whole), body["documents"]
    results = data.get("results")
    if not isinstance(results, list):
        raise UpstreamError("the ranking came without results", "malformed")
    filled = []
    for row in results:
        index = row.get("index") if isinstance(row, dict) else None
        if type(index) is not int or not 0 <= index < len(documents):
            raise UpstreamError("a ranked result came without the index of a document", "malformed")
        document = documents[index]
        filled.append({"document": document if isinstance(document, dict) else {"text": document}, **_no_null(row)})
    return _remade(whole, {**data, "results": filled})


def _no_null(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "document" or value is not None}


def _remade(whole: Whole, data: dict[str, Any]) -> Whole:
    return replace(whole, data=data, raw=json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode())
