"""Requests to a real node: every operation of its own `/openapi.json`, as the document says and as it forbids."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

import psutil
from hypothesis import strategies as st

from exo_node.api import openapi
from exo_node.api.documents import ERRORS
from exo_node.cluster.keys import ClusterKey
from exo_node.config import Settings
from exo_node.daemon import Daemon
from tests.fuzz.cases import ROOT, Finding, Target
from tests.fuzz.http_targets import ANTHROPIC, CHAT, COMPLETION, OLLAMA, RESPONSES
from tests.fuzz.inputs import TEXTS, as_json, broken, mutated, nasty
from tests.fuzz.schemas import values
from tests.integration.harness import NodeProcess

# As tests/clients/test_schemathesis.py: what ends the node, unloads its model, fetches from the hub, or calls out.
LEFT_OUT = re.compile(r"quit|download|pull|push|create$|blobs|/delete|instance|check|cancel/|models/(add|search)|place")
TIMEOUT_S = 60.0
GROWTH_MB = 250
EXAMPLES: Mapping[str, dict[str, Any]] = {
    "/v1/chat/completions": {**CHAT, "n": 1, "max_tokens": 2, "exo": None, "provider": None},
    "/v1/completions": {**COMPLETION, "max_tokens": 2},
    "/v1/messages": {**ANTHROPIC, "model": "demo", "max_tokens": 2},
    "/v1/responses": {**RESPONSES, "max_output_tokens": 16, "previous_response_id": None},
    "/api/chat": OLLAMA,
    "/api/generate": OLLAMA,
}
HEADERS = ("Authorization", "x-api-key", "Content-Type", "Accept", "Origin", "Host", "Range", "Cookie", "Expect",
           "Content-Encoding", "Transfer-Encoding", "anthropic-version", "X-Request-Id", "If-None-Match")  # fmt: skip

WORDS = ("gzip", "chunked", "text/html", "bytes=0-")


@dataclass(frozen=True)
class Request:
    """`raw`: bytes that go into the socket as they are, no request of ours."""

    method: str
    path: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    raw: bytes = b""


class World:
    """A node, and a connection to it that is made anew when it breaks."""

    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self.host, _, port = node.api.removeprefix("http://").partition(":")
        self.port = int(port)
        self.connection: http.client.HTTPConnection | None = None
        self.seen = 0  # bytes of the log

    def ask(self, request: Request) -> tuple[int, str, bytes]:
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        try:
            self.connection.putrequest(request.method, request.path, skip_host=False, skip_accept_encoding=True)
            for name, value in request.headers:
                self.connection.putheader(name, value)
            if request.body is not None and not any(name.lower() == "transfer-encoding" for name, _ in request.headers):
                self.connection.putheader("Content-Length", str(len(request.body)))
            self.connection.endheaders(request.body)
            answer = self.connection.getresponse()
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def log_since(self) -> str:
        text = self.node.log()
        new, self.seen = text[self.seen :], len(text)
        return new


@contextlib.contextmanager
def _node() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="exo-fuzz-") as home:
        node = NodeProcess(Path(home), "--discovery-module", "none", "--run-model", "demo", "--offline")
        try:
            world = World(node.wait_ready())
            for _ in range(3):
                world.ask(Request("POST", "/v1/chat/completions", as_json({**EXAMPLES["/v1/chat/completions"]})))
            process = psutil.Process(node.process.pid)
            before = process.memory_info().rss
            yield world
            world.close()
            if world.ask(Request("GET", "/health"))[0] != 200:
                raise Finding("the node is not well any more")
            grown = (process.memory_info().rss - before) >> 20
            if grown > GROWTH_MB:
                raise Finding(f"the node has grown by {grown} MB")
            world.close()
            node.stop()
        finally:
            if node.process.poll() is None:
                node.kill()


def _check(world: World, request: Request) -> None:
    if request.raw:
        with contextlib.suppress(OSError), socket.create_connection((world.host, world.port), 5) as one:
            one.sendall(request.raw)
            one.shutdown(socket.SHUT_WR)
            _judge(request, 400, "", one.recv(100_000))
        return
    try:
        status, kind, body = world.ask(request)
    except (http.client.HTTPException, ConnectionError, ValueError, UnicodeEncodeError):
        if world.node.process.poll() is not None:
            raise Finding("the node has ended") from None
        return  # a request that this client cannot send, or a connection that the node has closed after it
    _judge(request, status, kind, body)
    if "Traceback" in (log := world.log_since()):
        raise Finding(f"a traceback in the node's log: {log.strip().splitlines()[-1][:200]}")


def _judge(request: Request, status: int, kind: str, body: bytes) -> None:
    text = body.decode(errors="replace")
    if "Traceback (most" in text or 'File "' in text or str(ROOT) in text:
        raise Finding(f"{request.method} {request.path[:40]} shows our code")
    if status < 500:
        return
    if "json" not in kind:
        raise Finding(f"{request.method} {request.path[:40]}: a {status} of {kind or 'no kind'}")
    if request.method == "HEAD" and status != 500 and not body:
        return  # HTTP leaves no room for the error itself
    error = json.loads(text).get("error")
    code = error.get("code") if isinstance(error, dict) else error
    if code in (None, "internal_error") or status == 500:
        raise Finding(f"{request.method} {request.path[:40]}: a {status} {str(code)[:60]}")


# ---- what is asked: the document of an API that was not started


@cache
def _document() -> dict[str, Any]:
    async def made() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="exo-fuzz-") as home:
            daemon = Daemon(Settings(home=Path(home), discovery_module="none"), ClusterKey(bytes(32)), "fuzzed")
            routes = [
                openapi.Route(one.method, one.resource.canonical, one.handler)
                for one in daemon._api.app.router.routes()
                if one.resource
            ]
            return openapi.document(routes, "0", ERRORS)

    return asyncio.run(made())


def _operations() -> list[tuple[str, str, Mapping[str, Any]]]:
    found = []
    for path, table in _document()["paths"].items():
        found += [(method.upper(), path, one) for method, one in table.items() if not LEFT_OUT.search(path)]
    return found


def _spread(example: Any, random: Random) -> Iterator[Request]:
    method, path, operation, sound = example
    while True:
        choice = random.randrange(30)
        body: bytes | None = None
        if "requestBody" in operation:
            value = EXAMPLES.get(path, sound)
            made = mutated(value, random, 2) if choice < 20 else value
            body = broken(as_json(made), random) if choice == 20 else as_json(_cheap(made))
        headers = [("Content-Type", "application/json")] if body is not None else []
        if choice in (21, 22):
            headers.append(
                (random.choice(HEADERS), random.choice((*TEXTS, "gzip", "chunked", "text/html", "bytes=0-")))
            )
        named = re.sub(r"{[^}]*}", lambda _: quote(_value(random), safe=""), path)
        query = {}
        for one in operation.get("parameters", ()):
            if one["in"] == "query" and random.random() < 0.4:
                query[one["name"]] = _value(random)
        if choice == 23:
            query[random.choice(("stream", "limit", "after", "x"))] = _value(random)
        tail = f"?{urlencode(query, errors='surrogatepass')}" if query else ""
        if choice == 24:
            line = f"{random.choice(TEXTS)} {random.choice(TEXTS)} HTTP/1.1\r\n{random.choice(TEXTS)}\r\n\r\n"
            yield Request(method, path, raw=line.encode(errors="replace"))
        elif choice == 25:
            head = f"{method} {named} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n".encode()
            yield Request(method, path, raw=broken(head + (body or b"{"), random))
        else:
            wrong = random.choice(("PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "X")) if choice == 26 else method
            yield Request(wrong, named + tail, body, tuple(headers))


def _value(random: Random) -> str:
    made = random.choice(("demo", "1", str(nasty(random)), random.choice(TEXTS)))
    return made.encode(errors="replace").decode()[:300]


def _cheap(body: Any) -> Any:
    """Short answers: a case is about what is read of a request, not about what a model says."""
    if isinstance(body, dict):
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"):
            if type(body.get(name)) is int and body[name] > 16:
                body[name] = 16
        if isinstance(body.get("options"), dict) and type(body["options"].get("num_predict")) is int:
            body["options"]["num_predict"] = 2
    return body


def _examples() -> st.SearchStrategy[Any]:
    tables = _document()["components"]["schemas"]
    each = []
    for method, path, one in _operations():
        content = one.get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        body = values(schema, tables, 4) if schema else st.just({})
        each.append(st.tuples(st.just(method), st.just(path), st.just(one), body))
    return st.one_of(each)


TARGETS = (
    Target(
        name="http.node",
        share=10,
        example=st.deferred(_examples),
        spread=_spread,
        check=_check,
        each=10,
        case_s=60,
        world=_node,
    ),
)
