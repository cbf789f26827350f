"""Whether anything of a call has gone out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import httpx
import pytest
import pytest_asyncio

from exo_node.routing.sidecar.sending import note_requests, watch
from tests.standins import refused_url


@pytest_asyncio.fixture(autouse=True)
async def noted(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    for owner, name in ((httpx.AsyncClient, "send"), (httpx.Client, "send"), (aiohttp.ClientSession, "_request")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back afterwards
    note_requests()
    yield


async def ask(how: str) -> None:
    if how == "aiohttp":
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.post(refused_url())
    elif how == "httpx":
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ConnectError):
                await client.post(refused_url())
    else:
        with httpx.Client() as plain, pytest.raises(httpx.ConnectError):
            await asyncio.to_thread(plain.post, refused_url())


@pytest.mark.parametrize("how", ["httpx", "aiohttp", "thread"])
async def test_each_call_knows_of_its_own_requests(how: str) -> None:
    """Whichever client sends it, from a task or a thread of the call's; other calls' requests are not its own."""

    async def call(asks: bool) -> bool:
        sending = watch()
        if asks:
            await asyncio.create_task(ask(how))
        await asyncio.sleep(0.05)
        return sending.begun

    assert await asyncio.gather(*(asyncio.create_task(call(asks)) for asks in (True, False))) == [True, False]


async def test_requests_of_nobodys_go_out_too() -> None:
    """What is asked outside of a call (a table, a token) is only passed on."""
    await ask("httpx")
