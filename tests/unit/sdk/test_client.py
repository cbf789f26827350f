"""The SDK's HTTP clients, against a stand-in that speaks OpenAI's API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from exo_node import sdk
from exo_node.sdk.client import AsyncClient, Client, address
from tests.standins import OpenAI, Script, serve

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "seed": None}


@pytest.fixture
def upstream() -> Iterator[OpenAI]:
    standin = OpenAI()
    with serve(standin):
        yield standin


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """With or without /v1; the argument, then EXO_API_BASE, then this machine's node."""
    assert address("http://h:1/v1/") == address("http://h:1") == "http://h:1"
    assert address("http://h:7777/api/v1/litellm/v1") == "http://h:7777/api/v1/litellm"
    monkeypatch.setenv("EXO_API_BASE", "http://e:2/v1")
    assert address(None) == "http://e:2"
    monkeypatch.delenv("EXO_API_BASE")
    assert address(None) == "http://127.0.0.1:52415"


def test_what_is_sent(upstream: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields that are None stay away; the key is a bearer; a proxy of the environment is not asked for this machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Client(upstream.url, "secret") as client:
        client.request("POST", CHAT, BODY)
        list(client.stream(CHAT, BODY))
    first, second = upstream.requests
    assert (first.headers["authorization"], "seed" in first.body, second.body["stream"]) == (
        "Bearer secret",
        False,
        True,
    )


SCRIPTS = {
    "reset": Script(reset_after=2),
    "eof": Script(eof_after=2),
    "cut": Script(cut_after=2),
    "malformed": Script(malformed_after=2),
    "error": Script(error_after=2),
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_streams_that_break(upstream: OpenAI, name: str) -> None:
    """However a stream breaks, it raises after what came: sync and async alike."""
    upstream.script = SCRIPTS[name]
    got = []
    with Client(upstream.url) as client, pytest.raises(sdk.ServiceUnavailableError):
        got += list(client.stream(CHAT, BODY))
    async with AsyncClient(upstream.url) as other:
        with pytest.raises(sdk.ServiceUnavailableError):
            async for chunk in other.stream(CHAT, BODY):
                got.append(chunk)
    assert got


async def test_silence_ends(upstream: OpenAI) -> None:
    """`timeout_s` bounds the silence, before the answer and within it."""
    for after in (-1, 2):
        upstream.script = Script(stall_after=after)
        async with AsyncClient(upstream.url, timeout_s=0.1) as client:
            with pytest.raises(sdk.Timeout):
                async for _ in client.stream(CHAT, BODY):
                    pass


@contextmanager
def answering(status: int, headers: Mapping[str, str], *pieces: bytes) -> Iterator[str]:
    """A server that answers every POST with these bytes, sent piece by piece; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def told(text: str) -> bytes:
    """A chunk of a stream, its characters as they are."""
    chunk = {"choices": [{"index": 0, "delta": {"content": text}}]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode()


async def test_any_character_may_stand_in_a_stream() -> None:
    """Events end where server-sent ones do, not at the line ends that Unicode has besides and JSON need not escape;
    pieces may be cut anywhere, and the last line need not end."""
    texts = ["a\u2028b", "c\u2029d", "e\x85f", "g\x1ch", "\U0001f600"]
    raw = b"\r\n\r\n".join([*map(told, texts[:2]), b": still here"]) + b"\n\n"
    raw += b"\n\n".join([*map(told, texts[2:]), b"data: [DONE]"])
    pieces = [raw[i : i + 7] for i in range(0, len(raw), 7)]
    with answering(200, {"Content-Type": "text/event-stream"}, *pieces) as url:
        with Client(url) as client:
            assert [chunk.choices[0].delta.content for chunk in client.stream(CHAT, BODY)] == texts
        async with AsyncClient(url) as other:
            assert [chunk.choices[0].delta.content async for chunk in other.stream(CHAT, BODY)] == texts


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (200, {"Content-Type": "text/html"}, "answered 200 without JSON: no exo node is at that address"),
        (301, {"Location": "https://h/v1/x"}, "answered 301 and points to https://h/v1/x: use that address"),
    ],
)
async def test_an_answer_that_is_no_nodes(status: int, headers: dict[str, str], words: str) -> None:
    """A web page or a redirect at the address is an error that says so, never an empty answer."""
    with answering(status, headers, b"<html>Welcome</html>") as url:
        with Client(url) as client:
            with pytest.raises(sdk.APIConnectionError, match=words):
                client.request("POST", CHAT, BODY)
            with pytest.raises(Exception, match=words if status == 301 else "broke off"):
                list(client.stream(CHAT, BODY))
        async with AsyncClient(url) as other:
            with pytest.raises(sdk.APIConnectionError, match=words):
                await other.request("POST", CHAT, BODY)
            with pytest.raises(Exception, match=words if status == 301 else "broke off"):
                async for _ in other.stream(CHAT, BODY):
                    pass
