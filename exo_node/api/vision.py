"""Document 002's vision route: a prompt and an image, asked as a chat."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from exo_node.api.fields import Fields, bad, checked_text, kind
from exo_node.api.operations import JSON, SSE, operation
from exo_node.api.schemas import answers, node
from exo_node.api.serving import CallServer, read_object

_OURS = ("prompt", "image_url", "image", "image_base64", "detail")
# First bytes of the formats that the vision models take; https://en.wikipedia.org/wiki/List_of_file_signatures
_FORMATS = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"), (b"RIFF", "image/webp"))


class VisionRoutes:
    def __init__(self, serving: CallServer) -> None:
        self._serving = serving

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [("POST", "/vision", self.vision)]

    @operation("OpenAI", scope="use", body=node.VisionRequest, answer=answers.ChatCompletion, answers=(JSON, SSE))
    async def vision(self, request: web.Request) -> web.StreamResponse:
        """A question about pictures."""
        return await self._serving.answer(request, "chat", as_chat(await read_object(request)))


def as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """`{prompt, image_url | image | image_base64, detail?, ...chat fields}` -> a chat body. Raises `InvalidRequest`.

    `image_url` is a URL or a `data:` URL, `image` and `image_base64` the file in base64 (or a `data:` URL); each may be
    an array of them.
    """
    prompt = Fields(body).text("prompt")
    if not prompt:
        raise bad("prompt", "is required", code="missing_required_parameter")
    if body.get("messages") is not None:
        raise bad("messages", "is a field of /v1/chat/completions; this route takes prompt", code="unknown_parameter")
    urls = [_url(value, param) for param, value in _each(body, "image_url")]
    for name in ("image", "image_base64"):
        urls += [_data_url(value, param) for param, value in _each(body, name)]
    if not urls:
        raise bad("image_url", "is required (or image, in base64)", code="missing_required_parameter")
    detail = Fields(body).text("detail")
    if detail not in (None, "auto", "low", "high"):
        raise bad("detail", f"must be auto, low or high, got {detail[:40]!r}")
    extra = {"detail": detail} if detail else {}
    content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
    content += [{"type": "image_url", "image_url": {"url": url, **extra}} for url in urls]
    rest = {name: value for name, value in body.items() if name not in _OURS}
    return {**rest, "messages": [{"role": "user", "content": content}]}


def _each(body: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    value = body.get(name)
    if value is None:
        return []
    if isinstance(value, dict):  # OpenAI's {"url": ...}
        value = value.get("url")
    if isinstance(value, str):
        return [(name, checked_text(value, name))]
    if not isinstance(value, list):
        raise bad(name, f"must be a string or an array of strings, not {kind(value)}", code="invalid_type")
    return [(f"{name}[{i}]", checked_text(item, f"{name}[{i}]")) for i, item in enumerate(value)]


def _url(value: str, param: str) -> str:
    if not value.lower().startswith(("http://", "https://", "data:image/")):
        raise bad(param, "must be an http, https or data:image/ URL; a file's bytes go into image, in base64")
    return value


def _data_url(value: str, param: str) -> str:
    if value.startswith("data:"):
        return _url(value, param)
    try:
        head = base64.b64decode("".join(value.split()), validate=True)[:16]
    except (binascii.Error, ValueError) as e:
        raise bad(param, "is not base64") from e
    for magic, sort in _FORMATS:
        if head.startswith(magic):
            return f"data:{sort};base64,{''.join(value.split())}"
    raise bad(param, "is no PNG, JPEG, GIF or WebP image")
