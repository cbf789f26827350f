"""Who may call: the API key and its scopes, and while there is none, no web page of another site.

A node without a key can be reached by any page in a browser on its machine, with --open in its network. Two checks stop
that: `Host` must be a name that nobody else can own (DNS rebinding): this machine's, with --open an address or a name
of a private network; and an `Origin`, when a browser sends one, must be this machine's, the node's own or an allowed
one.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from contextvars import ContextVar
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from exo_node.api.cors import Origins
from exo_node.api.errors import Handler
from exo_node.api.operations import of_request
from exo_node.api.ports import Principal, RoutingPort
from exo_node.config import Settings
from exo_node.errors import ExoError, ModelNotAllowed, Unauthorized
from exo_node.limits.api_keys import digest
from exo_node.values import is_loopback

_PRINCIPAL: ContextVar[Principal | None] = ContextVar(
    "principal", default=None
)  # of the request that this task handles
_PRIVATE = (".local", ".localhost", ".internal", ".home.arpa", ".lan")
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")  # what proxies add


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


def _check_scope(request: web.Request, caller: Principal) -> None:
    """Raise `Forbidden` unless the caller may ask for what the request's route does. A route that says nothing of it is
    the admin's."""
    if request.match_info.http_exception is not None:  # no such route
        return
    said = of_request(request)
    scope = "admin" if said is None or said.scope is None else said.scope
    if caller.admin or scope in ("open", "see") or scope in caller.scopes:
        return
    if scope == "admin":
        raise Forbidden(
            f"{request.method} {request.path} needs the admin key (--api-key, master_key or an admin key of "
            "'exo apikey'); a node without any key takes it from its own machine only",
            code="admin_only",
        )
    raise Forbidden(
        f"{request.method} {request.path} needs a key with the scope {scope!r} (exo apikey add --scope {scope})",
        code="missing_scope",
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
            return Principal(admin=True, name="--api-key", proof=digest(token))
        known = routing.authenticate(token)
        if known is not None:
            return known
        if settings.api_key is not None:
            raise Unauthorized(
                "Incorrect API key provided, or none: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
            )
        _check_site(request, origins, names_this_machine if loopback else names_no_strangers_host)
        return Principal(admin=_is_from_here(request))

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
        said = of_request(request)
        try:
            caller = await identify_anew(request)
        except Unauthorized:
            if said is None or said.scope != "open":  # probes carry no keys
                raise
        else:
            _PRINCIPAL.set(caller)
            _check_scope(request, caller)
        return await handler(request)

    return guard


def _token(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("X-Api-Key", "")


def _same(sent: str, key: str) -> bool:
    return hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), key.encode())


def _is_from_here(request: web.Request) -> bool:
    """Sent by a program on this machine, which does not say that it passes on what another has sent."""
    local = is_loopback(request.remote or "") and names_this_machine(_host(request))
    return local and not any(name in request.headers for name in _FORWARDED)


def _check_site(request: web.Request, origins: Origins, ours: Callable[[str], bool]) -> None:
    """Raise `Forbidden` for what a web page of another site may have sent."""
    host = request.headers.get("Host", "")
    if not ours(_host(request)) and not origins.names(_host(request)):
        raise Forbidden(
            f"Host {host[:80]!r} may be a name of somebody else's; a node without an API key answers to localhost, "
            "with --open to addresses and private names too (set --api-key, or name it: --allowed-origins)",
            code="forbidden_host",
        )
    origin = request.headers.get("Origin", "")
    # Only web pages: editors and desktop apps send schemes of their own (vscode-webview:, app:, file:). "null" is what
    # a sandboxed frame sends, which any page can make.
    web_page = origin and origin.partition(":")[0].lower() in ("http", "https", "null")
    if web_page and not origins.allows(origin) and origin.lower() not in (f"http://{host}", f"https://{host}"):
        raise Forbidden("web pages of other sites may not call this node (--allowed-origins)", code="forbidden_origin")


def names_this_machine(host: str) -> bool:
    return is_loopback(host)


def names_no_strangers_host(host: str) -> bool:
    """Whether a stranger cannot make this name lead here: an address, a name without a domain, or below a domain that
    is kept for private networks (RFC 6762, RFC 8375, ICANN's .internal)."""
    host = host.rstrip(".").lower()
    if not host:
        return False
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE)
    return True


def _host(request: web.Request) -> str:
    return _hostname(f"//{request.headers.get('Host', '')}")


@lru_cache(256)  # the same few come again and again
def _hostname(url: str) -> str:
    """The host that `url` names; "" where it names none or is no URL at all (`//[bad`)."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
