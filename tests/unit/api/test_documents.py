"""api/documents.py: where the API describes itself."""

from __future__ import annotations

import aiohttp

from exo_node import __version__
from tests.unit.api.scripted import END, ScriptedBackend, serve_api


async def test_both_forms_of_the_same_document() -> None:
    """Programs get JSON, people a page; both name this version, and a node with a key wants it for both."""
    async with serve_api(ScriptedBackend([END])) as url, aiohttp.ClientSession(url) as http:
        async with http.get("/openapi.json") as answer:
            document = await answer.json()
            assert (document["openapi"], document["info"]["version"]) == ("3.1.0", __version__)
        async with http.get("/docs") as answer:
            assert answer.content_type == "text/html"
            assert __version__ in await answer.text()
    async with serve_api(ScriptedBackend([END]), api_key="k") as url, aiohttp.ClientSession(url) as http:
        for path in ("/openapi.json", "/docs"):
            async with http.get(path) as answer:
                assert answer.status == 401
