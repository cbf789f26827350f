"""The SDK's HTTP clients, against a stand-in that speaks OpenAI's API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from exo_node import sdk
from exo_node.sdk.client import AsyncClient, Client, address
from tests.standins import OpenAI, Script, serve

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "seed": None}


@pytest.fixture
def upstream() -> Iterator[OpenAI]:
    standin = OpenAI()
    with serve(standin):
        yield standin


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """With or without /v1; the argument, then EXO_API_BASE, then this machine's node."""
    assert address("http://h:1/v1/") == address("http://h:1") == "http://h:1"
    assert address("http://h:7777/api/v1/litellm/v1") == "http://h:7777/api/v1/litellm"
    monkeypatch.setenv("EXO_API_BASE", "http://e:2/v1")
    assert address(None) == "http://e:2"
    monkeypatch.delenv("EXO_API_BASE")
    assert address(None) == "http://127.0.0.1:52415"


def test_what_is_sent(upstream: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields that are None stay away; the key is a bearer; a proxy of the environment is not asked for this machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Client(upstream.url, "secret") as client:
        client.request("POST", CHAT, BODY)
        list(client.stream(CHAT, BODY))
    first, second = upstream.requests
    assert (first.headers["authorization"], "seed" in first.body, second.body["stream"]) == (
        "Bearer secret",
        False,
        True,
    )


SCRIPTS = {
    "reset": Script(reset_after=2),
    "eof": Script(eof_after=2),
    "cut": Script(cut_after=2),
    "malformed": Script(malformed_after=2),
    "error": Script(error_after=2),
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_streams_that_break(upstream: OpenAI, name: str) -> None:
    """However a stream breaks, it raises after what came: sync and async alike."""
    upstream.script = SCRIPTS[name]
    got = []
    with Client(upstream.url) as client, pytest.raises(sdk.ServiceUnavailableError):
        got += list(client.stream(CHAT, BODY))
    async with AsyncClient(upstream.url) as other:
        with pytest.raises(sdk.ServiceUnavailableError):
            async for chunk in other.stream(CHAT, BODY):
                got.append(chunk)
    assert got


async def test_silence_ends(upstream: OpenAI) -> None:
    """`timeout_s` bounds the silence, before the answer and within it."""
    for after in (-1, 2):
        upstream.script = Script(stall_after=after)
        async with AsyncClient(upstream.url, timeout_s=0.1) as client:
            with pytest.raises(sdk.Timeout):
                async for _ in client.stream(CHAT, BODY):
                    pass
