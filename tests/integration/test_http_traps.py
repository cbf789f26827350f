"""What odd but right HTTP clients send, byte by byte to a real node with the demo model."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.integration.harness import NodeProcess, nodes

QUESTION = {"model": "demo", "messages": [{"role": "user", "content": "What is exo?"}], "temperature": 0}
BODY = json.dumps(QUESTION).encode()
STREAMED = json.dumps({**QUESTION, "stream": True}).encode()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with nodes(tmp_path_factory.mktemp("traps") / "home", ["--discovery-module", "none"]) as (one,):
        yield one


@pytest.fixture(scope="module")
def words(node: NodeProcess) -> str:
    """What the demo answers to QUESTION, asked in the ordinary way."""
    status, answer = node.request("POST", "/v1/chat/completions", QUESTION)
    assert status == 200
    return str(answer["choices"][0]["message"]["content"])


def exchange(node: NodeProcess, sent: bytes) -> tuple[bytes, bytes]:
    """Head and body of what comes until the node closes the connection."""
    with socket.create_connection(("127.0.0.1", urlsplit(node.api).port), 60) as connection:
        connection.sendall(sent)
        parts = []
        while piece := connection.recv(65536):
            parts.append(piece)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    return head, body


def post(body: bytes, *, version: str = "1.1", path: str = "/v1/chat/completions", headers: str = "") -> bytes:
    length = "" if "Transfer-Encoding" in headers else f"Content-Length: {len(body)}\r\n"
    head = f"POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}{headers}"
    return f"{head}{'' if version == '1.0' else 'Connection: close' + chr(13) + chr(10)}\r\n".encode() + body


def content(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def streamed(body: bytes) -> str:
    """The text of a stream that ends as it should."""
    frames = [line[6:] for line in body.decode().split("\n\n") if line.startswith("data: ")]
    assert frames[-1] == "[DONE]"
    chunks = [json.loads(frame) for frame in frames[:-1]]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_http_1_0(node: NodeProcess, words: str) -> None:
    """A client of HTTP/1.0 gets whole answers and streams without chunks, ended by the end of the connection."""
    head, body = exchange(node, post(BODY, version="1.0"))
    assert b"200 OK" in head
    assert content(body) == words
    head, body = exchange(node, post(STREAMED, version="1.0"))
    assert b"chunked" not in head.lower()
    assert streamed(body) == words


def test_chunked_request(node: NodeProcess, words: str) -> None:
    """A body in chunks of a byte, without a length."""
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    head, body = exchange(node, post(chunks, headers="Transfer-Encoding: chunked\r\n"))
    assert b"200 OK" in head
    assert content(body) == words


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_request(node: NodeProcess, words: str, name: str, pack: Any) -> None:
    """A compressed body is read as if it were not."""
    _, body = exchange(node, post(pack(BODY), headers=f"Content-Encoding: {name}\r\n"))
    assert content(body) == words


def test_expect_continue(node: NodeProcess, words: str) -> None:
    """`Expect: 100-continue`, which curl sends with larger bodies, is answered before the body."""
    head, rest = exchange(node, post(BODY, headers="Expect: 100-continue\r\n"))
    assert head == b"HTTP/1.1 100 Continue"
    head, _, body = rest.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert content(body) == words


def test_without_a_content_type(node: NodeProcess, words: str) -> None:
    """curl -d says that JSON is a form, others say nothing: the body is JSON all the same."""
    for said in (b"Content-Type: application/x-www-form-urlencoded\r\n", b""):
        _, body = exchange(node, post(BODY).replace(b"Content-Type: application/json\r\n", said))
        assert content(body) == words


def test_pipelined_requests(node: NodeProcess, words: str) -> None:
    """Two requests sent at once on one connection are answered in order."""
    first = post(BODY).replace(b"Connection: close\r\n", b"")
    _, rest = exchange(node, first + post(BODY, path="/v1/nothing"))
    body, _, second = rest.partition(b"HTTP/1.1 404")
    assert content(body) == words
    assert b"no such route" in second


def test_head(node: NodeProcess) -> None:
    """HEAD is GET without the body, also of one model under its percent-encoded name."""
    for path in ("/v1/models", "/v1/models/demo", "/v1/models/%64emo", "/", "/openapi.json", "/docs"):
        head, body = exchange(node, f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert b"200 OK" in head, path
        assert body == b""


def test_null_and_empty_fields(node: NodeProcess, words: str) -> None:
    """What SDKs send unasked changes nothing."""
    nulls = {
        name: None for name in ("tools", "stop", "n", "seed", "user", "stream_options", "response_format", "top_p")
    }
    body = {**QUESTION, **nulls, "functions": [], "metadata": {}, "logit_bias": {}, "stop": []}
    status, answer = node.request("POST", "/v1/chat/completions", body)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, words)


def test_unicode_cut_between_chunks(node: NodeProcess) -> None:
    """Characters of several bytes come whole, wherever the tokens and the socket's pieces end."""
    wanted = "Zażółć 🦊 日本語"
    body = {**QUESTION, "stream": True, "max_tokens": 200, "response_format": schema({"const": wanted})}
    _, raw = exchange(node, post(json.dumps(body).encode(), version="1.0"))
    assert json.loads(streamed(raw)) == wanted


def test_a_megabyte_of_tools(node: NodeProcess) -> None:
    """A 1 MB tool schema is read, and refused for what it is: more than the model's context."""
    tool = {"type": "function", "function": {"name": "f", "description": "x " * 500_000, "parameters": {}}}
    status, answer = node.request("POST", "/v1/chat/completions", {**QUESTION, "tools": [tool]})
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert node.request("GET", "/health")[0] == 200


def test_two_hundred_messages(node: NodeProcess) -> None:
    """A long chat is one prompt, which holds every message; twice as many are too long for the model, and said so."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": "Hi"} for i in range(201)]
    body = {**QUESTION, "messages": turns, "max_tokens": 5}
    status, answer = node.request("POST", "/v1/chat/completions", body)
    assert (status, answer["usage"]["completion_tokens"]) == (200, 5)
    assert answer["usage"]["prompt_tokens"] > 2 * len(turns)  # a role's mark and the word
    status, answer = node.request("POST", "/v1/chat/completions", {**body, "messages": turns[:-1] + turns})
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


def schema(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": of}}
