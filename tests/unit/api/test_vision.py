"""A prompt and an image as a chat."""

from __future__ import annotations

import base64
from typing import Any

import aiohttp
import pytest

from exo_node.api.vision import as_chat
from exo_node.errors import InvalidRequest
from tests.unit.api.scripted import END, ScriptedBackend, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting, whole

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
URL = "https://example.com/image.jpg"


async def test_document_002s_example() -> None:
    """Its body, at its path, becomes a chat with the image as a part."""
    routing = ScriptedRouting()
    routing.replies = [whole({"choices": []})]
    body = {"prompt": "What's in this image?", "image_url": URL, "model": "openai/gpt-4o"}
    async with (
        serve_api(ScriptedBackend([END]), routing=routing) as url,
        aiohttp.ClientSession(url) as http,
        http.post("/api/v1/litellm/vision", json=body) as answer,
    ):
        assert answer.status == 200
    (call,) = routing.calls
    assert (call.kind, call.model, sorted(call.needs)) == ("chat", "openai/gpt-4o", ["vision"])
    assert call.body["messages"][0]["content"] == [
        {"type": "text", "text": "What's in this image?"},
        {"type": "image_url", "image_url": {"url": URL}},
    ]


async def test_openais_form_of_a_link() -> None:
    """`{"url": ...}`, as a chat's parts have it."""
    routing = ScriptedRouting()
    routing.replies = [whole({"choices": []})]
    async with (
        serve_api(ScriptedBackend([END]), routing=routing) as url,
        aiohttp.ClientSession(url) as http,
        http.post("/v1/vision", json={"prompt": "p", "image_url": {"url": URL}, "model": "m"}) as answer,
    ):
        assert answer.status == 200
    assert routing.calls[0].body["messages"][0]["content"][1]["image_url"] == {"url": URL}


def test_images() -> None:
    """URLs and base64, one or several; other fields are the chat's."""
    chat = as_chat({"prompt": "p", "image_url": [URL], "image": PNG, "detail": "low", "max_tokens": 5, "stream": True})
    parts = chat["messages"][0]["content"][1:]
    assert [part["image_url"]["url"] for part in parts] == [URL, f"data:image/png;base64,{PNG}"]
    assert {part["image_url"]["detail"] for part in parts} == {"low"}
    assert (chat["max_tokens"], chat["stream"]) == (5, True)
    assert as_chat({"prompt": "p", "image_url": {"url": URL}})["messages"]
    assert as_chat({"prompt": "p", "image_base64": f"data:image/png;base64,{PNG}"})["messages"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"image_url": URL}, "prompt"),
        ({"prompt": "p"}, "image_url"),
        ({"prompt": "p", "image_url": "file:///etc/passwd"}, "image_url"),
        ({"prompt": "p", "image_url": [URL, 5]}, "image_url[1]"),
        ({"prompt": "p", "image_url": 5}, "image_url"),
        ({"prompt": "p", "image": "%%"}, "image"),
        ({"prompt": "p", "image": "aGVsbG8="}, "image"),
        ({"prompt": "p", "image_url": URL, "detail": "best"}, "detail"),
        ({"prompt": "p", "image_url": URL, "messages": []}, "messages"),
    ],
)
def test_refused(body: dict[str, Any], param: str) -> None:
    """What is missing or no image is named."""
    with pytest.raises(InvalidRequest) as caught:
        as_chat(body)
    assert caught.value.param == param
