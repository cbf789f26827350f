"""OpenAI's embeddings request -> what the ring is asked, and its vectors -> OpenAI's answer. Pure.

Shapes: https://platform.openai.com/docs/api-reference/embeddings ; `pooling` (mean | last) is our own field.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Mapping
from typing import Any, Literal

from exo_node.api.fields import Fields, bad, checked_text, token_ids
from exo_node.api.semantics import is_neutral
from exo_node.types import EmbeddingRequest, Embeddings

# Field -> values that ask for nothing beyond what is done anyway (null always is one): vLLM's, Cohere's and TEI's.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "truncate_prompt_tokens": (),
    "truncate": (False, "NONE"),
    "normalize": (True,),
    "embed_dtype": ("float32",),
    "input_type": (),
    "prompt_name": (),
    "messages": (),
}


def parse_embedding(body: Mapping[str, Any], request_id: str, model: str, timeout_s: float) -> EmbeddingRequest:
    """Raises `InvalidRequest` with the field's name."""
    fields = Fields(body)
    for name, neutral in _UNSUPPORTED.items():
        value = body.get(name)
        if value is not None and not is_neutral(value, neutral):
            raise bad(name, "is not supported by local models", code="unsupported_parameter")
    fields.text("user")
    return EmbeddingRequest(
        request_id=request_id,
        model=model,
        inputs=_inputs(body.get("input")),
        pooling=_pooling(fields.text("pooling")),
        dimensions=fields.integer("dimensions", 1),
        timeout_s=timeout_s,
    )


def embeddings_object(found: Embeddings, model: str, encoding: str) -> dict[str, Any]:
    """`encoding`: "float" (arrays of numbers) or "base64" (little-endian float32)."""
    rows = [
        {"object": "embedding", "index": i, "embedding": _encoded(vector, encoding)}
        for i, vector in enumerate(found.vectors)
    ]
    usage = {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens}
    return {"object": "list", "data": rows, "model": model, "usage": usage}


def _encoded(vector: bytes, encoding: str) -> str | list[float]:
    # array("f") is little-endian float32 on every machine that exo-node runs on
    return base64.b64encode(vector).decode() if encoding == "base64" else array("f", vector).tolist()


def _pooling(value: str | None) -> Literal["mean", "last"] | None:
    match value:
        case None | "mean" | "last":
            return value
        case "cls":
            problem = "cls would give texts of one beginning one vector: the first token of a decoder sees nothing else"
            raise bad("pooling", problem, code="unsupported_parameter")
        case _:
            raise bad("pooling", f"must be mean or last, got {value[:40]!r}")


def _inputs(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """A string, token ids, or an array of either -> one input each."""
    if isinstance(value, str):
        return (_text(value, "input"),)
    if not isinstance(value, list) or not value:
        raise bad("input", "must be a string or a non-empty array")
    if type(value[0]) is int:
        return (token_ids(value, "input"),)
    if isinstance(value[0], list):
        return tuple(token_ids(item, f"input[{i}]") for i, item in enumerate(value))
    return tuple(_text(item, f"input[{i}]") for i, item in enumerate(value))


def _text(value: Any, param: str) -> str:
    text = checked_text(value, param)
    if not text:
        raise bad(param, "must not be empty")
    return text
