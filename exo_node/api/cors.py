"""Which web pages may read this node's answers (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol).

Pages of this machine and of desktop apps and editors may, as with Ollama; others only where `--allowed-origins` names
them. Credentials that a browser would add by itself are never asked for: keys travel in headers that the page sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import web

from exo_node.values import is_loopback

APPS = ("app", "capacitor", "file", "tauri", "vscode-file", "vscode-webview")  # schemes; Ollama's list
_OURS = ("backend", "model", "provider", "reason", "strategy", "attempts", "cost", "ttft-ms", "cached", "ignored")
EXPOSED = ", ".join(("X-Request-Id, Request-Id, Retry-After, X-Should-Retry", *(f"x-exo-{name}" for name in _OURS)))
MAX_AGE_S = 600


class Origins:
    """`allowed` are origins ("https://chat.example.com"); "*" allows every page, which a node without a key refuses."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = frozenset(one.rstrip("/").lower() for one in allowed)
        self._hosts = frozenset(urlsplit(one).hostname for one in self._allowed if "://" in one)

    def allows(self, origin: str) -> bool:
        """Whether pages of `origin` may read. "null" is what any page can make of itself: never."""
        if "*" in self._allowed or origin.lower() in self._allowed:
            return True
        return _is_at_home(origin)

    def names(self, host: str) -> bool:
        """Whether one of the allowed origins is on that host."""
        return bool(host) and host.lower() in self._hosts

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """For `on_response_prepare`."""
        origin = request.headers.get("Origin")
        if origin is None or not self.allows(origin):
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = EXPOSED
        response.headers.add("Vary", "Origin")

    def options(self, request: web.Request) -> web.Response | None:
        """The answer to OPTIONS, a browser's question before a request or anybody's; None where there is no route."""
        problem = request.match_info.http_exception
        if problem is None or problem.status != web.HTTPMethodNotAllowed.status_code:
            return None
        methods = ", ".join(sorted({*problem.headers.get("Allow", "").replace(" ", "").split(","), "OPTIONS"} - {""}))
        headers = {"Allow": methods}
        origin = request.headers.get("Origin")
        if origin is not None and self.allows(origin):
            headers |= {
                "Access-Control-Allow-Methods": methods,
                "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "*"),
                "Access-Control-Max-Age": str(MAX_AGE_S),
            }
        return web.Response(status=204, headers=headers)


@lru_cache(256)  # the same few come again and again
def _is_at_home(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
        return parts.scheme.lower() in APPS or (parts.scheme in ("http", "https") and is_loopback(parts.hostname or ""))
    except ValueError:
        return False
