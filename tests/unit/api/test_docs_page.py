"""api/docs_page.py: the document for people."""

from __future__ import annotations

from html.parser import HTMLParser

import aiohttp

from exo_node.api.docs_page import page
from tests.unit.api.scripted import END, ScriptedBackend, serve_api

VOID = {"meta"}


class Balanced(HTMLParser):
    """Collects the tags and checks that each is closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_shows_every_route_and_runs_nothing() -> None:
    """Well-formed HTML with every path in it, no script, and a policy that forbids any."""
    async with serve_api(ScriptedBackend([END])) as url, aiohttp.ClientSession(url) as http:
        async with http.get("/openapi.json") as answer:
            document = await answer.json()
        async with http.get("/docs") as answer:
            text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
    found = Balanced()
    found.feed(text)
    assert found.open == []
    assert "script" not in found.tags
    assert policy.startswith("default-src 'none'")
    assert all(path in text for path in document["paths"])


def test_what_is_written_is_escaped() -> None:
    """A description is text, whatever is in it."""
    entry = {"tags": ["T"], "summary": "<b>", "description": "a `<i>` b", "responses": {"200": {}}}
    shown = page(
        {
            "info": {"title": "x", "version": "1", "description": "<u>"},
            "tags": [{"name": "T"}],
            "paths": {"/p": {"get": entry}},
            "components": {"schemas": {}},
        }
    )
    assert "<b>" not in shown
    assert "<u>" not in shown
    assert "<code>&lt;i&gt;</code>" in shown
