"""Embeddings of local models: the request's fields and the answer's forms."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from exo_node.api.local_embeddings import embeddings_object, parse_embedding
from exo_node.errors import InvalidRequest
from exo_node.types import EmbeddingRequest, Embeddings


def parsed(**fields: Any) -> EmbeddingRequest:
    return parse_embedding({"input": "x", **fields}, "embd-1", "demo", 5.0)


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("one", ("one",)),
        (["one", "two"], ("one", "two")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
    ],
)
def test_inputs(given: Any, inputs: tuple[Any, ...]) -> None:
    """Text, token ids, or an array of either."""
    assert parsed(input=given).inputs == inputs


def test_options() -> None:
    """Pooling and dimensions arrive; null and what asks for what is done anyway are taken."""
    asked = parsed(pooling="last", dimensions=4, user="u", truncate=False, normalize=True, input_type=None)
    assert (asked.pooling, asked.dimensions, asked.model, asked.timeout_s) == ("last", 4, "demo", 5.0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": 5}, "input"),
        ({"pooling": "cls"}, "pooling"),
        ({"pooling": "max"}, "pooling"),
        ({"dimensions": 0}, "dimensions"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"normalize": False}, "normalize"),
        ({"input_type": "query"}, "input_type"),
    ],
)
def test_refusals(fields: dict[str, Any], param: str) -> None:
    """What is wrong or would change the vectors is a 400 that names its field."""
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    assert caught.value.param == param


def test_both_encodings() -> None:
    """Numbers, or the same as little-endian float32 in base64; usage counts the prompt."""
    raw = struct.pack("<2f", 0.6, -0.8)
    plain = embeddings_object(Embeddings((raw, raw), 7), "demo", "float")
    assert plain["data"][1] == {"object": "embedding", "index": 1, "embedding": list(struct.unpack("<2f", raw))}
    assert plain["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    coded = embeddings_object(Embeddings((raw,), 7), "demo", "base64")
    assert base64.b64decode(coded["data"][0]["embedding"]) == raw
