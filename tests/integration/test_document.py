"""A node's real answers against its own document: one of each operation that a client reads."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.integration.harness import NodeProcess, nodes
from tests.standins import Standin, serve, standin

CONFIG = """\
model_list:
  - model_name: fast
    litellm_params: {model: openai/fast, api_key: planted, api_base: "@OPENAI@/v1"}
"""
CHAT: Any = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
TOOL = {"name": "add", "parameters": SCHEMA}
FORCED = {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required", "max_tokens": 90}
ADDED = {"model_name": "new", "litellm_params": {"model": "openai/new", "api_key": "k"}}
NONE = {**CHAT, "model": "nope"}
SHORT = {"options": {"num_predict": 3}}
CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2, "n": 2}),
    ("POST", "/v1/chat/completions", {**CHAT, **FORCED}),
    ("POST", "/v1/chat/completions", {**CHAT, **FORCED, "model": "fast"}),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True}),
    ("POST", "/v1/chat/completions", NONE),
    ("POST", "/v1/completions", {"model": "demo", "prompt": "Hi", "max_tokens": 3, "logprobs": 2, "echo": True}),
    ("POST", "/v1/embeddings", {"model": "demo", "input": ["Hi"]}),
    ("POST", "/v1/embeddings", {"model": "demo", "input": "Hi", "encoding_format": "base64"}),
    ("POST", "/v1/moderations", {"model": "fast", "input": "Hi"}),
    ("POST", "/v1/images/generations", {"model": "fast", "prompt": "Hi"}),
    ("POST", "/v1/audio/speech", {"model": "fast", "input": "Hi", "voice": "alloy"}),
    ("POST", "/v1/batch/completions", {"requests": [CHAT, NONE]}),
    ("POST", "/v1/messages", CHAT),
    ("POST", "/v1/messages", {**CHAT, "model": "fast", "stream": True}),
    ("POST", "/v1/messages", NONE),
    ("POST", "/v1/messages/count_tokens", {"model": "demo", "messages": CHAT["messages"]}),
    ("POST", "/v1/responses", {"model": "demo", "input": "Hi", "max_output_tokens": 16}),
    ("POST", "/v1/responses", {"model": "demo", "input": "Hi", "tools": [{"type": "function", **TOOL}]}),
    ("GET", "/v1/responses/resp_none", None),
    ("POST", "/v1/responses/input_tokens", {"model": "demo", "input": "Hi"}),
    ("POST", "/api/chat", {"model": "demo", "messages": CHAT["messages"], "stream": False, **SHORT}),
    ("POST", "/api/chat", {"model": "demo", "messages": CHAT["messages"], **SHORT}),
    ("POST", "/api/generate", {"model": "demo", "prompt": "Hi", "stream": False, **SHORT}),
    ("POST", "/api/embed", {"model": "demo", "input": ["Hi", "you"]}),
    ("POST", "/api/show", {"model": "demo"}),
    ("POST", "/api/show", {"model": "nope"}),
    *(("GET", f"/api/{name}", None) for name in ("tags", "ps", "version")),
    *(("GET", f"/v1/models{name}", None) for name in ("", "/demo", "/fast", "/nope")),
    ("POST", "/v1/deployments", ADDED),
    *(("GET", f"/v1/{name}", None) for name in ("deployments", "providers", "router/stats", "spend", "topology")),
    ("POST", "/v1/cost/estimate", {"model": "demo", "input_tokens": 3, "output_tokens": 3}),
    ("POST", "/v1/cost/estimate", {"models": ["demo", "gpt-4o"], "prompt_tokens": 3}),
    ("GET", "/v1/cost/estimate?model=demo&input_tokens=3", None),
    ("POST", "/v1/config", {"temperature": 0.5, "default_model": None}),
    ("POST", "/v1/route/explain", CHAT),
    ("POST", "/v1/models/add", {"model_id": "demo"}),
    ("POST", "/v1/place_instance", {"model_id": "demo", "sharding": "Pipeline", "min_nodes": 1}),
    ("POST", "/v1/download", {"model": "demo"}),
    ("POST", "/v1/instances", {"model": "demo", "reuse": True}),
    ("GET", "/v1/instances", None),
    ("GET", "/v1/files", None),
    ("GET", "/v1/batches/batch_none", None),
    ("GET", "/health", None),
    ("GET", "/metrics", None),
    ("GET", "/v1/events", None),
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    folder: Path = tmp_path_factory.mktemp("document")
    provider: Standin = standin("openai")
    with serve(provider):
        config = folder / "config.yaml"
        config.write_text(CONFIG.replace("@OPENAI@", provider.url))
        with nodes(folder / "home", ["--discovery-module", "none", "--litellm-config", str(config)]) as (one,):
            yield one


@pytest.fixture(scope="module")
def document(node: NodeProcess) -> Any:
    return node.request("GET", "/openapi.json")[1]


def asked(node: NodeProcess, method: str, path: str, body: Any) -> tuple[int, str, bytes]:
    """(status, media type, body)."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(node.api + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers.get_content_type(), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get_content_type(), error.read()


def operation(document: Any, method: str, path: str) -> Any:
    exact = document["paths"].get(path)
    if exact is None:
        named = (re.sub(r"{\w+}", "[^/]+", pattern) for pattern in document["paths"])
        exact = next(
            entry for name, entry in zip(named, document["paths"].values(), strict=True) if re.fullmatch(name, path)
        )
    return exact[method.lower()]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_answers_are_as_documented(node: NodeProcess, document: Any, method: str, path: str, body: Any) -> None:
    """Status, media type and schema; and a body that is taken is one that the document allows."""
    said = operation(document, method, path.partition("?")[0])
    status, media, raw = asked(node, method, path, body)
    assert str(status) in said["responses"] or 400 <= status < 500
    answer = said["responses"].get(str(status)) or said["responses"]["default"]
    known = media if media in answer["content"] else f"{media.partition('/')[0]}/*"
    assert known in answer["content"], (status, media, raw[:200])
    if media == "application/json":
        schema = {**answer["content"][media]["schema"], "components": document["components"]}
        jsonschema.validate(json.loads(raw), schema, jsonschema.Draft202012Validator)
    assert ("requestBody" in said) == (method == "POST" and "explain" not in path)
    if body is not None and status < 400 and "requestBody" in said:
        schema = {**said["requestBody"]["content"]["application/json"]["schema"], "components": document["components"]}
        jsonschema.validate(body, schema, jsonschema.Draft202012Validator)
