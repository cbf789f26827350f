"""The daemon's HTTP connections to providers: pooled, kept alive, opened at first use, closed by the daemon."""

from __future__ import annotations

import urllib.request
from collections.abc import Collection

import aiohttp
from yarl import URL

from exo_node.routing.upstream.exchange import listening
from exo_node.routing.upstream.public_web import PublicImages

# Below the idle timeouts of the clouds' load balancers (60 s and more).
KEEPALIVE_S = 30.0
DNS_TTL_S = 60


class Connections:
    """Owns one session for TCP and one for each unix socket. Opens nothing until asked; `close` ends them all.

    `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` hold as they do for other programs, read once for each host.
    """

    def __init__(self, image_hosts: Collection[str] = ()) -> None:
        """`image_hosts`: `--image-hosts`."""
        self.images = PublicImages(image_hosts)
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._proxies: dict[tuple[str, str], str | None] = {}

    def session(self, unix_path: str | None = None) -> aiohttp.ClientSession:
        """The session for TCP, or for the unix socket at `unix_path`. Call it on the event loop."""
        session = self._sessions.get(unix_path or "")
        if session is None or session.closed:
            connector: aiohttp.BaseConnector
            # No limit here: how many requests run is decided where they are admitted.
            if unix_path is not None:
                connector = aiohttp.UnixConnector(unix_path, limit=0, keepalive_timeout=KEEPALIVE_S)
            else:
                connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=DNS_TTL_S)
            session = aiohttp.ClientSession(
                connector=listening(connector),
                cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies are not another's
                timeout=aiohttp.ClientTimeout(),  # each request has its own
                auto_decompress=True,
            )
            self._sessions[unix_path or ""] = session
        return session

    def connector(self, unix_path: str | None = None) -> aiohttp.BaseConnector:
        """What the session of `unix_path` has its connections from."""
        connector = self.session(unix_path).connector
        assert connector is not None
        return connector

    def proxy_for(self, url: URL) -> str | None:
        """The HTTP proxy that the environment names for `url`'s host."""
        where = (url.scheme, url.host or "")
        if where not in self._proxies:
            proxy = urllib.request.getproxies_environment().get(url.scheme)
            if proxy and urllib.request.proxy_bypass(url.host or ""):
                proxy = None
            self._proxies[where] = proxy or None
        return self._proxies[where]

    async def forget(self, unix_path: str) -> None:
        """Close the connections to a unix socket whose server is gone."""
        session = self._sessions.pop(unix_path, None)
        if session is not None:
            await session.close()

    async def close(self) -> None:
        for session in list(self._sessions.values()):
            await session.close()
        self._sessions.clear()
