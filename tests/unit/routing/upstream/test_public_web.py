"""Which addresses are public, and that nothing else is ever connected to (issue 6, 5: no SSRF)."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from exo_node.routing.upstream import public_web
from exo_node.routing.upstream.public_web import NotFetched, PublicImages, is_public

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 100


@pytest.mark.parametrize("text", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public(text: str) -> None:
    """The Internet's own addresses."""
    assert is_public(text)


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "224.0.0.1",
        "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:7f00:1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "2001:0:1::", "2001:db8::1", "fec0::1", "not an address", "",
    ],
)  # fmt: skip
def test_not_public(text: str) -> None:
    """This machine, private networks, clouds' metadata, documentation, multicast, and each of them within another."""
    assert not is_public(text)


class Served:
    """A server on loopback that counts what reached it."""

    def __init__(self) -> None:
        self.hits: list[str] = []
        self.port = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.hits.append(f"{request.host} {request.path_qs}")
        if request.path == "/to":
            raise web.HTTPFound(request.query["u"])
        if request.path == "/loop":
            raise web.HTTPFound("/loop")
        if request.path == "/status":
            return web.Response(status=404, body=PNG)
        if request.path == "/slow":
            await asyncio.Event().wait()
        if request.path == "/packed":
            return web.Response(body=gzip.compress(PNG), headers={"Content-Encoding": "gzip"})
        if request.path == "/large":
            answer = web.StreamResponse()
            await answer.prepare(request)
            while True:
                await answer.write(PNG + bytes(1 << 20))
        return web.Response(body=b"secret" if request.path == "/text" else PNG, content_type="image/png")


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    found = Served()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.1", "2130706433", "017700000001", "0x7f000001",
        "0177.0.0.1", "127.0.0.1.", "0", "[::1]", "1.1.1.1@127.0.0.1", "user:secret@localhost",
        "127\u30020\u30020\u30021",
    ],
)  # fmt: skip
async def test_this_machine_is_never_called(served: Served, host: str) -> None:
    """However loopback is written; said of ours, whatever aiohttp would do with a number that is no address."""
    with pytest.raises(NotFetched, match="is not at a public address"):
        await PublicImages().fetch(f"http://{host}:{served.port}/x.png")
    assert served.hits == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://1.1.1.1/x", "gopher://x", "//x/y", "x", "", "http://", "http://[bad"]
)
async def test_other_schemes(url: str) -> None:
    """Only http and https name images."""
    with pytest.raises(NotFetched):
        await PublicImages().fetch(url)


async def test_every_address_of_a_name_must_be_public(served: Served) -> None:
    """A name that stands for a public and a private address is not called at either."""
    asked: list[str] = []

    async def lookup(host: str) -> Sequence[str]:
        asked.append(host)
        return ["1.1.1.1", "127.0.0.1"]

    with pytest.raises(NotFetched, match="public"):
        await PublicImages(lookup=lookup).fetch(f"http://images.example:{served.port}/x.png")
    assert asked == ["images.example"] and served.hits == []


async def test_the_address_that_was_checked_is_called(served: Served) -> None:
    """One look-up for each request: a name that answers otherwise the second time (rebinding) is not asked again, and
    the server hears its own name."""
    answers = [["127.0.0.1"], ["10.0.0.1"]]

    async def lookup(host: str) -> Sequence[str]:
        return answers.pop(0)

    images = PublicImages(hosts=["images.example"], lookup=lookup)
    assert await images.fetch(f"http://images.example:{served.port}/x.png") == ("image/png", PNG)
    assert served.hits == [f"images.example:{served.port} /x.png"] and len(answers) == 1


async def test_a_redirect_into_the_network(served: Served) -> None:
    """Each hop is held to the same rules; a circle ends."""
    images = PublicImages(hosts=["127.0.0.1"])
    for target in (f"http://localhost:{served.port}/x.png", "http://169.254.169.254/latest", "file:///etc/passwd"):
        served.hits.clear()
        with pytest.raises(NotFetched):
            await images.fetch(f"http://127.0.0.1:{served.port}/to?u={target}")
        assert len(served.hits) == 1, target
    served.hits.clear()
    with pytest.raises(NotFetched, match="redirected"):
        await images.fetch(f"http://127.0.0.1:{served.port}/loop")
    assert len(served.hits) == 4
    url = f"http://127.0.0.1:{served.port}/to?u=/x.png"
    assert (await images.fetch(url))[0] == "image/png"


async def test_only_images_of_a_bounded_size_and_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no image by its bytes, fails, never ends or never comes is refused, in words that tell nothing of it."""
    images = PublicImages(hosts=["127.0.0.1"])
    for path, words in (
        ("text", "is no PNG"), ("status", "cannot be fetched"), ("large", "is larger than"), ("packed", "is no PNG"),
    ):  # fmt: skip
        with pytest.raises(NotFetched, match=words) as caught:
            await images.fetch(f"http://127.0.0.1:{served.port}/{path}")
        assert "secret" not in str(caught.value)
    monkeypatch.setattr(public_web, "FETCH_S", 0.05)
    with pytest.raises(NotFetched, match="did not come"):
        await images.fetch(f"http://127.0.0.1:{served.port}/slow")
