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

from tests.integration.harness import NodeProcess, nodes, wait_until
from tests.standins import Standin, serve, standin

CONFIG = """\
model_list:
  - model_name: fast
    litellm_params: {model: openai/fast, api_key: planted, api_base: "@OPENAI@/v1"}
"""
BOUNDARY = "between-parts"
CHAT: Any = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
TOOL = {"name": "add", "parameters": SCHEMA}
FORCED = {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required", "max_tokens": 90}
ADDED = {"id": "added", "model_name": "new", "litellm_params": {"model": "openai/new", "api_key": "k"}}
NONE = {**CHAT, "model": "nope"}
CARD = {"modelCard": {"modelId": "demo"}}
# Without a body that is said: it is optional, any route's, or not looked at.
NO_BODY = re.compile("/v1/(route/explain|config/reload|providers/.*|cancel/.*)|/api/(push|create|blobs/.*)|/quit")
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
    ("GET", "/v1/batches", None),
    ("GET", "/v1/healthcheck", None),
    ("POST", "/api/embeddings", {"model": "demo", "prompt": "Hi"}),
    ("POST", "/api/pull", {"model": "demo", "stream": False}),
    ("POST", "/v1/rerank", {"model": "fast", "query": "Hi", "documents": ["a"]}),
    ("POST", "/v1/vision", {"model": "fast", "prompt": "Hi", "image_url": "https://example.com/a.png"}),
    *(("GET", path, None) for path in ("/", "/v1", "/openapi.json", "/state", "/v1/node_id", "/v1/initial_models")),
    *(("GET", f"/v1/instances/@INSTANCE@{name}", None) for name in ("", "/stats")),
    ("GET", "/v1/instance/@INSTANCE@", None),
    ("GET", "/v1/instance/previews?model_id=demo", None),
    ("GET", "/v1/instance/placement?model_id=demo", None),
    *(("GET", f"/state/{name}", None) for name in ("downloads/@NODE@", "nodeDisk", "topology/nodes", "instances")),
    ("GET", "/v1/download/progress", None),
    ("POST", "/v1/download/start", {"targetNodeId": "@NODE@", "shardMetadata": {"PipelineShardMetadata": CARD}}),
    ("POST", "/v1/download/cancel", {"targetNodeId": "@NODE@", "modelId": "nope"}),
    ("POST", "/v1/chat/token/encode", CHAT),
    ("POST", "/bench/chat/completions", CHAT),
    ("GET", "/v1/deployments/added", None),
    ("DELETE", "/v1/deployments/added", None),
    ("POST", "/v1/providers/openai/check", {}),
    *(("GET", f"/v1/providers/{name}", None) for name in ("openai", "openai/check", "nope")),
    ("GET", "/v1/spend?group_by=model", None),
    ("POST", "/v1/config/reload", {}),
    ("DELETE", "/v1/instance/@INSTANCE@", None),
    ("DELETE", "/v1/instances/@INSTANCE@", None),
    ("DELETE", "/v1/models/demo", None),
    ("DELETE", "/v1/download/@NODE@/demo", None),
    ("DELETE", "/api/delete", {"model": "demo"}),
    *(("POST", f"/api/{name}", {"model": "demo"}) for name in ("push", "create")),
    ("POST", "/api/blobs/sha256:0", None),
    ("POST", "/v1/cancel/0", None),
    ("POST", "/quit", {}),
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


def asked(node: NodeProcess, method: str, path: str, body: Any, form: bytes | None = None) -> tuple[int, str, bytes]:
    """(status, media type, body). `form`: a multipart body, with BOUNDARY between its parts."""
    data = form if form is not None else None if body is None else json.dumps(body).encode()
    kind = "application/json" if form is None else f"multipart/form-data; boundary={BOUNDARY}"
    request = urllib.request.Request(node.api + path, data, {"Content-Type": kind}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers.get_content_type(), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get_content_type(), error.read()


def with_file(content: bytes, **fields: str) -> bytes:
    """A form with a file."""
    parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    parts.append(b'name="file"; filename="in"\r\n\r\n' + content)
    mark = f"--{BOUNDARY}".encode()
    return (
        b"".join(mark + b"\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + mark + b"--\r\n"
    )


def holds(document: Any, said: Any, status: int, media: str, raw: bytes) -> Any:
    """The answer, which is as the document says of the operation: its status, media type, schema."""
    assert str(status) in said["responses"] or 400 <= status < 500
    answer = said["responses"].get(str(status)) or said["responses"]["default"]
    known = media if media in answer["content"] else f"{media.partition('/')[0]}/*"
    assert known in answer["content"], (status, media, raw[:200])
    if media != "application/json":
        return raw
    schema = {**answer["content"][media]["schema"], "components": document["components"]}
    found = json.loads(raw)
    jsonschema.validate(found, schema, jsonschema.Draft202012Validator)
    return found


def filled(node: NodeProcess, path: str, body: Any) -> tuple[str, Any]:
    """With this node's id, and that of an instance that is there."""
    text = json.dumps([path, body]).replace("@NODE@", node.node_id)
    if "@INSTANCE@" in text:
        text = text.replace("@INSTANCE@", node.request("GET", "/v1/instances")[1]["data"][0]["id"])
    path, body = json.loads(text)
    return path, body


def operation(document: Any, method: str, path: str) -> Any:
    """Of the path itself, else of the first pattern that fits, those of one segment a name first."""
    path = path.partition("?")[0]
    for pieces in ("", "[^/]+", ".+"):
        for pattern, entry in document["paths"].items():
            if method.lower() in entry and re.fullmatch(re.sub(r"{\w+}", pieces, pattern), path):
                return entry[method.lower()]
    raise KeyError(f"{method} {path}")


def test_what_one_answer_names_for_the_next(node: NodeProcess, document: Any) -> None:
    """A file's life, a batch's, a stored response's, an instance's of a preview; and what is sent as a form."""

    def do(method: str, path: str, body: Any = None, form: bytes | None = None) -> Any:
        status, media, raw = asked(node, method, path, body, form)
        assert status == 200, raw
        return holds(document, operation(document, method, path), status, media, raw)

    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    file = do("POST", "/v1/files", form=with_file(json.dumps(line).encode(), purpose="batch"))["id"]
    wanted = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = do("POST", "/v1/batches", wanted)["id"]
    do("POST", f"/v1/batches/{batch}/cancel")
    for path in (f"/v1/batches/{batch}", "/v1/batches", f"/v1/files/{file}", f"/v1/files/{file}/content", "/v1/files"):
        do("GET", path)
    wait_until(lambda: do("GET", f"/v1/batches/{batch}")["status"] in ("cancelled", "completed"), 60)
    do("DELETE", f"/v1/files/{file}")
    wanted = {"model": "demo", "input": "Hi", "max_output_tokens": 16, "background": True}
    stored = do("POST", "/v1/responses", wanted)["id"]
    do("POST", f"/v1/responses/{stored}/cancel")
    do("GET", f"/v1/responses/{stored}/input_items")
    do("DELETE", f"/v1/responses/{stored}")
    for asked_for in ("json", "text"):
        do("POST", "/v1/audio/transcriptions", form=with_file(b"RIFF", model="fast", response_format=asked_for))
    do("POST", "/v1/instance", {"instance": do("GET", "/v1/instance/placement?model_id=demo")})


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_answers_are_as_documented(node: NodeProcess, document: Any, method: str, path: str, body: Any) -> None:
    """Status, media type and schema; and a body that is taken is one that the document allows."""
    path, body = filled(node, path, body)
    said = operation(document, method, path)
    status, media, raw = asked(node, method, path, body)
    holds(document, said, status, media, raw)
    assert ("requestBody" in said) == (method == "POST" and NO_BODY.fullmatch(path) is None)
    if body is not None and status < 400 and "requestBody" in said:
        schema = {**said["requestBody"]["content"]["application/json"]["schema"], "components": document["components"]}
        jsonschema.validate(body, schema, jsonschema.Draft202012Validator)
