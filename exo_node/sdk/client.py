"""HTTP to a node (or any other server that speaks OpenAI's API): one request builder, a sync and an async client."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import cache
from typing import Any

import httpx

from exo_node.sdk.errors import broken_off, error_for, no_answer, no_node
from exo_node.sdk.replies import Reply, wrap

DEFAULT_BASE = "http://127.0.0.1:52415"
TIMEOUT_S = 900.0
CHAT = "/v1/chat/completions"


def address(base_url: str | None) -> str:
    """The server's root, without `/v1`: the argument, EXO_API_BASE, or this machine's node."""
    return (base_url or os.environ.get("EXO_API_BASE") or DEFAULT_BASE).rstrip("/").removesuffix("/v1")


def headers(api_key: str | None) -> dict[str, str]:
    key = api_key or os.environ.get("EXO_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def compact(body: Mapping[str, Any]) -> dict[str, Any]:
    """Without the fields that were not given."""
    return {name: value for name, value in body.items() if value is not None}


@cache
def _trust() -> ssl.SSLContext:
    """Reading the certificates takes longer than a request: once in a process."""
    return httpx.create_ssl_context()


def _options(root: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    host = httpx.URL(root).host
    ours = host == "localhost" or host.startswith("127.") or host == "::1"
    return {
        "base_url": root,
        "headers": headers(api_key),
        "timeout": timeout_s,
        "verify": _trust() if root.startswith("https") else False,
        "trust_env": not ours,  # a proxy of the environment does not lead to this machine
    }


class _Events:
    """Bytes of a server-sent stream -> replies. A stream must end with [DONE] or it broke off.

    Its lines end with LF or CRLF alone. (httpx's own end wherever Python's do, U+2028 and U+0085 among them, which JSON
    holds as they are.)
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._pieces: list[bytes] = []  # of a line that is not complete
        self._done = False

    def read(self, data: bytes) -> Iterator[Reply]:
        """What the lines say that `data` completes."""
        self._pieces.append(data)
        if b"\n" in data:
            *lines, rest = b"".join(self._pieces).split(b"\n")
            self._pieces = [rest]
            for line in lines:
                yield from self._told(line)

    def end(self) -> Iterator[Reply]:
        """What the last line says, where it has no end."""
        yield from self._told(b"".join(self._pieces))
        if not self._done:
            raise broken_off(self._response)

    def _told(self, line: bytes) -> Iterator[Reply]:
        if not line.startswith(b"data:"):
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            self._done = True
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            told = {"error": {"message": "an event of the stream is not JSON", "code": "malformed"}}
            raise broken_off(self._response, told) from error
        if isinstance(event, dict) and event.get("error"):
            raise broken_off(self._response, event)
        yield wrap(event)


class Client:
    """Blocking calls. Raises the exceptions of `sdk.errors`. May be used from several threads."""

    def __init__(self, base_url: str | None = None, api_key: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.root = address(base_url)
        self._http = httpx.Client(**_options(self.root, api_key, timeout_s))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that came (`wrap`ped)."""
        try:
            response = self._http.request(method, path, json=None if body is None else compact(body))
        except httpx.TransportError as error:
            raise no_answer(error, self.root) from error
        return _checked(response)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Reply]:
        response: httpx.Response | None = None
        try:
            with self._http.stream("POST", path, json=compact({**body, "stream": True})) as response:
                if not response.is_success:
                    response.read()
                    _checked(response)
                events = _Events(response)
                for data in response.iter_bytes():
                    yield from events.read(data)
                yield from events.end()
        except httpx.TransportError as error:
            raise _failure(error, self.root, response) from error


class AsyncClient:
    """The same, not blocking. Belongs to the event loop that first uses it."""

    def __init__(self, base_url: str | None = None, api_key: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.root = address(base_url)
        self._http = httpx.AsyncClient(**_options(self.root, api_key, timeout_s))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that came (`wrap`ped)."""
        try:
            response = await self._http.request(method, path, json=None if body is None else compact(body))
        except httpx.TransportError as error:
            raise no_answer(error, self.root) from error
        return _checked(response)

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[Reply]:
        response: httpx.Response | None = None
        try:
            async with self._http.stream("POST", path, json=compact({**body, "stream": True})) as response:
                if not response.is_success:
                    await response.aread()
                    _checked(response)
                events = _Events(response)
                async for data in response.aiter_bytes():
                    for reply in events.read(data):
                        yield reply
                for reply in events.end():
                    yield reply
        except httpx.TransportError as error:
            raise _failure(error, self.root, response) from error


def _failure(error: httpx.TransportError, root: str, response: httpx.Response | None) -> Exception:
    """Of a stream: with a response it broke off, without one nobody answered."""
    if response is None or isinstance(error, httpx.TimeoutException):
        return no_answer(error, root)
    return broken_off(response)


def _checked(response: httpx.Response) -> Any:
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.status_code >= 400:
        raise error_for(response, body)
    if body is None or not response.is_success:
        raise no_node(response)
    return wrap(body)
