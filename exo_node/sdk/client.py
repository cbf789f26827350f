"""HTTP to a node (or any other server that speaks OpenAI's API): one request builder, a sync and an async client."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx

from exo_node.sdk.errors import error_for
from exo_node.sdk.replies import Reply, wrap

DEFAULT_BASE = "http://127.0.0.1:52415"
TIMEOUT_S = 900.0


def address(base_url: str | None) -> str:
    """The server's root, without `/v1`: the argument, EXO_API_BASE, or this machine's node."""
    return (base_url or os.environ.get("EXO_API_BASE") or DEFAULT_BASE).rstrip("/").removesuffix("/v1")


def headers(api_key: str | None) -> dict[str, str]:
    key = api_key or os.environ.get("EXO_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def compact(body: Mapping[str, Any]) -> dict[str, Any]:
    """Without the fields that were not given."""
    return {name: value for name, value in body.items() if value is not None}


class _Events:
    """Lines of a server-sent stream -> replies. A stream must end with [DONE] or it broke off."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.done = False

    def read(self, line: str) -> Reply | None:
        if not line.startswith("data:"):
            return None
        data = line[5:].strip()
        if data == "[DONE]":
            self.done = True
            return None
        event = json.loads(data)
        if isinstance(event, dict) and event.get("error"):
            raise error_for(502, event, self._root)
        reply: Reply = wrap(event)
        return reply

    def end(self) -> None:
        if not self.done:
            raise error_for(502, {"error": {"message": "the answer's stream broke off", "code": "eof"}}, self._root)


class Client:
    """Blocking calls. Raises the exceptions of `sdk.errors`."""

    def __init__(self, base_url: str | None = None, api_key: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.root = address(base_url)
        self._http = httpx.Client(base_url=self.root, headers=headers(api_key), timeout=timeout_s)

    def close(self) -> None:
        self._http.close()

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            response = self._http.request(method, path, json=None if body is None else compact(body))
        except httpx.TransportError as error:
            raise error_for(None, error, self.root) from error
        return _checked(response, self.root)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Reply]:
        events = _Events(self.root)
        try:
            with self._http.stream("POST", path, json=compact({**body, "stream": True})) as response:
                if response.status_code >= 400:
                    response.read()
                    _checked(response, self.root)
                for line in response.iter_lines():
                    if (reply := events.read(line)) is not None:
                        yield reply
        except httpx.TransportError as error:
            raise error_for(None, error, self.root) from error
        events.end()


class AsyncClient:
    """The same, not blocking. One connection pool per event loop: make one where you use it."""

    def __init__(self, base_url: str | None = None, api_key: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.root = address(base_url)
        self._http = httpx.AsyncClient(base_url=self.root, headers=headers(api_key), timeout=timeout_s)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            response = await self._http.request(method, path, json=None if body is None else compact(body))
        except httpx.TransportError as error:
            raise error_for(None, error, self.root) from error
        return _checked(response, self.root)

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[Reply]:
        events = _Events(self.root)
        try:
            async with self._http.stream("POST", path, json=compact({**body, "stream": True})) as response:
                if response.status_code >= 400:
                    await response.aread()
                    _checked(response, self.root)
                async for line in response.aiter_lines():
                    if (reply := events.read(line)) is not None:
                        yield reply
        except httpx.TransportError as error:
            raise error_for(None, error, self.root) from error
        events.end()


def _checked(response: httpx.Response, root: str) -> Any:
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.status_code >= 400:
        raise error_for(response.status_code, body, root)
    return wrap(body)
