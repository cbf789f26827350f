"""Talks to a node's HTTP API with the standard library. Blocking: the command line does one thing at a time."""

from __future__ import annotations

import http.client
import json
import select
import ssl
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

from exo_node.errors import ExoError, PeerUnavailable, Unauthorized
from exo_node.http_tls import check_digest, client_context

CONNECT_TIMEOUT_S = 5.0
# A stream is never silent for longer than the server's keep-alive (10 s), so this much silence means a dead machine.
STREAM_TIMEOUT_S = 60.0
SLOW_S = 1.0  # from here on a person wonders what is going on


class Client:
    """One connection to the node at `url`. `timeout_s` bounds the silence before a plain answer."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout_s: float = 900.0,
        *,
        digest: str = "",
        cacert: Path | None = None,
    ) -> None:
        """An https node is known by its certificate's `digest` (SHA-256), else by who signed it (`cacert`)."""
        parts = urlsplit(url)
        self.url = url
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._digest = digest
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            context = client_context(None if digest else cacert)
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=CONNECT_TIMEOUT_S, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)

    def connect(self) -> None:
        """Raises `PeerUnavailable` when nobody listens there."""
        try:
            self._connection.connect()
        except OSError as e:
            raise PeerUnavailable(f"no node answers at {self.url}: {e.strerror or e}") from e
        if self._digest:
            check_digest(cast(ssl.SSLSocket, self._connection.sock), self._digest, self.url)

    def close(self) -> None:
        self._connection.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """A plain call: the answer's JSON. Raises `ExoError` with the server's words."""
        try:
            response = self._send(method, path, body, self._timeout_s)
            return _checked(response.status, response.read())
        except (OSError, http.client.HTTPException) as e:
            raise self._lost(e) from e

    def events(
        self, path: str, body: Any, slow: Callable[[], None] | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """POST with server-sent events for an answer. Stopping early hangs up, which cancels the work on the server.

        `slow` is called once when nothing has come for a second.

        Raises `ExoError` with the server's words, and when the stream breaks off before its `[DONE]`.
        """
        response: http.client.HTTPResponse | None = None
        finished = False
        try:
            response = self._send("POST", path, body, STREAM_TIMEOUT_S, slow)
            if response.status >= 400:
                _checked(response.status, response.read())
            while line := response.readline():
                if not line.startswith(b"data: "):
                    continue  # keep-alive comments and the empty lines between events
                if line.startswith(b"data: [DONE]"):
                    response.read()  # to the end of the body, so that the connection can be used again
                    finished = True
                    return
                event = json.loads(line[6:])
                if "error" in event and "object" not in event:
                    _checked(500, line[6:])
                yield event
            raise PeerUnavailable(f"the answer of the node at {self.url} broke off")
        except (OSError, http.client.HTTPException) as e:
            raise self._lost(e) from e
        finally:
            if not finished:
                if response is not None:
                    response.close()
                self.close()

    def _send(
        self, method: str, path: str, body: Any, timeout_s: float, slow: Callable[[], None] | None = None
    ) -> http.client.HTTPResponse:
        if self._connection.sock is None:
            self.connect()
        self._connection.sock.settimeout(timeout_s)
        raw = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, body=raw, headers=self._headers)
        if slow is not None and not select.select([self._connection.sock], [], [], SLOW_S)[0]:
            slow()
        return self._connection.getresponse()

    def _lost(self, error: Exception) -> PeerUnavailable:
        self.close()
        return PeerUnavailable(f"lost the node at {self.url}: {error or type(error).__name__}")


def _checked(status: int, raw: bytes) -> Any:
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if status < 400 and body is not None:
        return body
    if status == 401:  # the server's words are about HTTP headers
        raise Unauthorized("this node wants an API key, or another one: --api-key KEY, or EXO_API_KEY=KEY")
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        raise ExoError(str(error.get("message")), code=error.get("code"), param=error.get("param"), status=status)
    raise ExoError(f"the server answered {status} and no JSON; is that an exo node?", status=status)


def path_of(*parts: str) -> str:
    """`/v1/...` with every part percent-encoded."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)
