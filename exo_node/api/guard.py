"""Who may call: the API key, and while there is none, no web page of another site.

A node without a key listens on loopback, where any page in the user's browser can send it requests. Two checks stop
that: `Host` must name this machine (DNS rebinding), and an `Origin`, when a browser sends one, must too.
"""

from __future__ import annotations

import hmac
from contextvars import ContextVar
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import web

from exo_node.api.cors import Origins
from exo_node.api.errors import Handler
from exo_node.api.ports import Principal, RoutingPort
from exo_node.config import Settings
from exo_node.errors import ExoError, ModelNotAllowed, Unauthorized
from exo_node.values import is_loopback

_PRINCIPAL: ContextVar[Principal | None] = ContextVar(
    "principal", default=None
)  # of the request that this task handles
OPEN_PATHS = ("/", "/health", "/v1/health", "/healthcheck", "/v1/healthcheck")  # probes carry no keys


class Forbidden(ExoError):
    """The request came by a way that this node does not serve."""

    status, type, code = 403, "invalid_request_error", "forbidden"


def principal() -> Principal | None:
    """Whom the key of the request being handled stands for; None on open paths without a right key."""
    return _PRINCIPAL.get()


def caller_id() -> str:
    """The id of the request's key, to which belongs what it leaves here; "" without keys."""
    caller = principal()
    return "" if caller is None else caller.key_id


def is_admin() -> bool:
    """Whether the request's key may change what this node does."""
    caller = principal()
    return caller is not None and caller.admin


def may_ask(model: str) -> bool:
    """Whether the request's key may ask for a model of that name."""
    caller = principal()
    return caller is None or caller.may_ask(model)


def check_allowed(model: str) -> None:
    """Raises `ModelNotAllowed`."""
    if not may_ask(model):
        raise ModelNotAllowed(f"this API key may not ask for {model[:80]!r}", param="model")


def require_admin(request: web.Request) -> None:
    """Raise `Forbidden` unless the caller may change what this node does."""
    if not is_admin():
        raise Forbidden(
            f"{request.method} {request.path} needs the admin key (--api-key, master_key or an admin key of "
            "'exo apikey'); a node without any key takes it from its own machine only",
            code="admin_only",
        )


def require_all_models(request: web.Request) -> None:
    """Raise `Forbidden` where the caller's key is for some models only: what follows names them all."""
    caller = principal()
    if caller is not None and caller.restricted:
        raise Forbidden(
            f"{request.method} {request.path} names every model: it needs a key that may ask for all of them",
            code="restricted_key",
        )


def make_guard(settings: Settings, routing: RoutingPort, origins: Origins) -> object:
    """The middleware for these settings: `--api-key` is the admin's, `routing` knows all other keys.

    OPTIONS is answered here, since browsers ask without a key.
    """
    loopback = is_loopback(settings.api_host)

    def identify(request: web.Request) -> Principal:
        token = _token(request)
        if settings.api_key is not None and _same(token, settings.api_key):
            return Principal(admin=True)
        known = routing.authenticate(token)
        if known is not None:
            return known
        if settings.api_key is not None:
            raise Unauthorized(
                "Incorrect API key provided, or none: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
            )
        if loopback:
            _check_local(request, origins)
            return Principal(admin=True)
        return Principal(admin=_is_from_here(request, origins))  # --open

    async def identify_anew(request: web.Request) -> Principal:
        try:
            return identify(request)
        except Unauthorized:
            if not _token(request):
                raise
        await routing.look_for_keys()  # `exo apikey add` may have made it just now
        return identify(request)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "OPTIONS" and (answer := origins.options(request)) is not None:
            return answer
        _PRINCIPAL.set(None)
        try:
            _PRINCIPAL.set(await identify_anew(request))
        except Unauthorized:
            if request.path not in OPEN_PATHS:
                raise
        return await handler(request)

    return guard


def _token(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("X-Api-Key", "")


def _same(sent: str, key: str) -> bool:
    return hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), key.encode())


def _is_from_here(request: web.Request, origins: Origins) -> bool:
    """Sent by a program on this machine, and by no web page of another site."""
    try:
        _check_local(request, origins)
    except Forbidden:
        return False
    return is_loopback(request.remote or "")


def _check_local(request: web.Request, origins: Origins) -> None:
    host = request.headers.get("Host", "")
    if not _names_this_machine(f"//{host}"):
        raise Forbidden(
            f"Host {host[:80]!r} is not this machine; a node without an API key answers only to localhost "
            "(set --api-key)",
            code="forbidden_host",
        )
    origin = request.headers.get("Origin", "")
    # Only web pages: editors and desktop apps send schemes of their own (vscode-webview:, app:, file:). "null" is what
    # a sandboxed frame sends, which any page can make.
    web_page = origin and origin.partition(":")[0].lower() in ("http", "https", "null")
    if web_page and not origins.allows(origin):
        raise Forbidden("web pages of other sites may not call this node (--allowed-origins)", code="forbidden_origin")


@lru_cache(256)  # the same few come again and again
def _names_this_machine(url: str) -> bool:
    return is_loopback(_hostname(url))


def _hostname(url: str) -> str:
    """The host that `url` names; "" where it names none or is no URL at all (`//[bad`)."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
