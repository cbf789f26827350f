"""Who may call: the API key, and while there is none, no web page of another site.

A node without a key listens on loopback, where any page in the user's browser can send it requests. Two checks stop
that: `Host` must name this machine (DNS rebinding), and an `Origin`, when a browser sends one, must too.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from aiohttp import web

from exo_node.api.errors import Handler
from exo_node.config import Settings
from exo_node.errors import ExoError, Unauthorized
from exo_node.values import is_loopback

OPEN_PATHS = ("/health", "/v1/health", "/healthcheck", "/v1/healthcheck")  # probes carry no keys


class Forbidden(ExoError):
    """The request came by a way that this node does not serve."""

    status, type, code = 403, "invalid_request_error", "forbidden"


def authorized(request: web.Request, key: str | None) -> bool:
    """Whether the request carries the key, as `Authorization: Bearer` or `x-api-key`. Without a key all do."""
    if key is None:
        return True
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    sent = token.strip() if scheme.lower() == "bearer" else request.headers.get("X-Api-Key", "")
    return hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), key.encode())


def make_guard(settings: Settings) -> object:
    """The middleware for these settings."""
    local_only = settings.api_key is None and is_loopback(settings.api_host)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if local_only:
            _check_local(request)
        if request.path not in OPEN_PATHS and not authorized(request, settings.api_key):
            raise Unauthorized("missing or wrong API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
        return await handler(request)

    return guard


def _check_local(request: web.Request) -> None:
    host = request.headers.get("Host", "")
    if not is_loopback(_hostname(f"//{host}")):
        raise Forbidden(
            f"Host {host[:80]!r} is not this machine; a node without an API key answers only to localhost "
            "(set --api-key)",
            code="forbidden_host",
        )
    origin = request.headers.get("Origin", "")
    # Only web pages: editors and desktop apps send schemes of their own (vscode-webview:, app:, file:). "null" is what
    # a sandboxed frame sends, which any page can make.
    web_page = origin.partition(":")[0].lower() in ("http", "https", "null")
    if web_page and not is_loopback(_hostname(origin)):
        raise Forbidden("web pages of other sites may not call a node without an API key", code="forbidden_origin")


def _hostname(url: str) -> str:
    """The host that `url` names; "" where it names none or is no URL at all (`//[bad`)."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
