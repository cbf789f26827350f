"""api/cors.py: whose web pages may read."""

from __future__ import annotations

import aiohttp
import pytest

from exo_node.api.cors import Origins
from tests.unit.api.scripted import END, ScriptedBackend, serve_api

ASK = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("http://[::1]:8080", True),
        ("vscode-webview://abc", True),
        ("app://obsidian.md", True),
        ("tauri://localhost", True),
        ("https://chat.example.com", True),
        ("https://chat.example.com:444", False),
        ("https://example.com", False),
        ("http://localhost.example.com", False),
        ("null", False),
        ("", False),
        ("http://[bad", False),
    ],
)
def test_who_is_let_in(origin: str, allowed: bool) -> None:
    """This machine's pages, apps' and editors', and the named ones; a sandboxed frame's "null" never."""
    assert Origins(("https://Chat.example.com/",)).allows(origin) is allowed


async def test_a_page_of_this_machine_reads_answers_errors_and_streams() -> None:
    """Each answer names the page's own origin, so that the browser hands it over; other pages get no such header."""
    chat = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
    async with serve_api(ScriptedBackend([END])) as url, aiohttp.ClientSession(url) as http:
        headers = {"Origin": "http://localhost:3000"}
        for body in (chat, {**chat, "stream": True}, {}):
            async with http.post("/v1/chat/completions", json=body, headers=headers) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
                assert "x-exo-backend" in answer.headers["Access-Control-Expose-Headers"]
                assert "Origin" in answer.headers.getall("Vary")
        async with http.get("/v1/models") as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers


async def test_another_page_is_refused_without_a_key_and_cannot_read_with_one() -> None:
    """Without a key the page's request is refused; with one it needs the key, and gets no header that lets it read."""
    headers = {"Origin": "https://evil.example", "Authorization": "Bearer k"}
    for key, status, code in ((None, 403, "forbidden_origin"), ("k", 200, None)):
        async with (
            serve_api(ScriptedBackend([END]), api_key=key) as url,
            aiohttp.ClientSession(url) as http,
            http.get("/v1/models", headers=headers) as answer,
        ):
            told = (await answer.json()).get("error", {}).get("code")
            found = (answer.status, told, answer.headers.get("Access-Control-Allow-Origin"))
        assert found == (status, code, None)


async def test_options() -> None:
    """A preflight needs no key and says what may be sent; OPTIONS alone says which methods there are."""
    async with serve_api(ScriptedBackend([END]), api_key="k") as url, aiohttp.ClientSession(url) as http:
        async with http.options("/v1/chat/completions", headers={"Origin": "http://localhost:1", **ASK}) as answer:
            assert (answer.status, await answer.read()) == (204, b"")
            assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:1"
            assert answer.headers["Access-Control-Allow-Methods"] == "OPTIONS, POST"
            assert answer.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
        async with http.options("/v1/models") as answer:
            assert (answer.status, answer.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
        async with http.options("/v1/chat/completions", headers={"Origin": "https://evil.example", **ASK}) as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers
        async with http.options("/v1/nothing") as answer:
            assert answer.status == 401
