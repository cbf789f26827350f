"""Fetches what a client's URL names, and only from the public Internet: a client must not reach through us into our
network (server-side request forgery).

A host's addresses are looked up once, all of them must be public, and the connection goes to one of exactly those: a
name that changes its mind in between gains nothing. Redirects are followed by the same rules.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

MAX_BYTES = 20 * 1024 * 1024
MAX_REDIRECTS = 3
FETCH_S = 15.0
# First bytes of the formats that vision models take; https://en.wikipedia.org/wiki/List_of_file_signatures
_FORMATS = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"), (b"RIFF", "image/webp"))
_NAT64 = b"\x00\x64\xff\x9b" + bytes(8)
_UNICAST = ip_network("2000::/3")  # RFC 4291 2.4: all that is the Internet's
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity"}  # images are compressed; more would be a bomb
Lookup = Callable[[str], Awaitable[Sequence[str]]]


class NotFetched(Exception):
    """The message says why, for the client; it tells nothing of what answered."""


class PublicImages:
    """Images by http and https. `hosts` may be fetched from wherever they are (`--image-hosts`). `lookup` gives the
    addresses of a name. Opens a connection for each image and nothing before.
    """

    def __init__(self, hosts: Collection[str] = (), lookup: Lookup | None = None) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._lookup = lookup or addresses_of

    async def fetch(self, link: str) -> tuple[str, bytes]:
        """(media type, bytes). Raises `NotFetched`."""
        try:
            async with asyncio.timeout(FETCH_S):
                return await self._fetch(link)
        except TimeoutError as e:
            raise NotFetched(f"did not come within {FETCH_S:g} s") from e
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise NotFetched("cannot be fetched") from e

    async def _fetch(self, link: str) -> tuple[str, bytes]:
        url = URL(link)
        connector = aiohttp.TCPConnector(resolver=_Resolver(self._addresses), use_dns_cache=False, force_close=True)
        session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)
        async with session:
            for _ in range(MAX_REDIRECTS + 1):
                self._check(url)
                async with session.get(url, allow_redirects=False, headers=_HEADERS) as answer:
                    if answer.status in (301, 302, 303, 307, 308) and answer.headers.get("Location"):
                        url = url.join(URL(answer.headers["Location"]))
                        continue
                    if answer.status != 200:
                        raise NotFetched("cannot be fetched")
                    return _image(await _bounded(answer.content))
        raise NotFetched(f"is redirected more than {MAX_REDIRECTS} times")

    def _check(self, url: URL) -> None:
        """What needs no look-up: aiohttp asks no resolver for an address."""
        if url.scheme not in ("http", "https") or not url.host:
            raise NotFetched("must be an http or https URL")
        if url.host.lower() not in self._hosts and not _may_be_public(url.host):
            raise NotFetched("is not at a public address")

    async def _addresses(self, host: str) -> Sequence[str]:
        """Raises `NotFetched` where one of them is not public."""
        found = await self._lookup(host)
        if host.lower() not in self._hosts and not all(is_public(one) for one in found):
            raise NotFetched("is not at a public address")
        return found


class _Resolver(AbstractResolver):
    def __init__(self, addresses: Lookup) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        kinds = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            ResolveResult(
                hostname=host, host=one, port=port, family=kinds[ip_address(one).version], proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for one in await self._addresses(host)
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is kept."""


async def addresses_of(host: str) -> list[str]:
    """What the system says that a name stands for. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(text: str) -> bool:
    """Whether an address is one of the public Internet's. Addresses that carry another one are as public as that one.

    >>> [is_public(one) for one in ("1.1.1.1", "10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1%eth0")]
    [True, False, False, False, False]
    """
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        inner: Any = address.ipv4_mapped or address.sixtofour
        if inner is None and address.packed.startswith(_NAT64):
            inner = IPv4Address(address.packed[12:])
        if address.teredo is not None or address.scope_id is not None:
            return False
        if inner is None:
            return address.is_global and address in _UNICAST
        address = inner
    return address.is_global and not address.is_multicast and not address.is_reserved


def _may_be_public(host: str) -> bool:
    """Whether a look-up is worth it: an address says itself what it is, and aiohttp looks no number up, which a socket
    would understand in more ways than one ("127.1").
    """
    try:
        ip_address(host)
    except ValueError:
        return not host.replace(".", "").isdigit() and ":" not in host
    return is_public(host)


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    data = bytearray()
    async for piece in content.iter_chunked(256 * 1024):
        data += piece
        if len(data) > MAX_BYTES:
            raise NotFetched(f"is larger than {MAX_BYTES} bytes")
    return bytes(data)


def _image(data: bytes) -> tuple[str, bytes]:
    """By its first bytes, not by what the server says: nothing else is passed on, whatever was reached."""
    sort = format_of(data)
    if sort is None:
        raise NotFetched("is no PNG, JPEG, GIF or WebP image")
    return sort, data


def format_of(data: bytes) -> str | None:
    """The media type of an image; None for anything else."""
    return next((sort for magic, sort in _FORMATS if data.startswith(magic)), None)
