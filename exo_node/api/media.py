"""OpenAI's routes around pictures, sound and moderation: checked for their shape, answered by whoever can."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.multipart import BodyPartReader

from exo_node.api.errors import MAX_BODY
from exo_node.api.fields import bad
from exo_node.api.operations import JSON, operation
from exo_node.api.schemas import answers
from exo_node.api.schemas import openai as schemas
from exo_node.api.serving import CallServer, read_object, refuse_compressed
from exo_node.errors import InvalidRequest
from exo_node.routing.call import FormFile

PIECE = 256 * 1024  # bytes read at once
MAX_PARTS = 1000  # of a form: names count too, and a form without an end would fill the memory

# What aiohttp raises for a form with bad boundaries or headers, or one that breaks off.
BROKEN_FORM = (ValueError, web.RequestPayloadError, HttpProcessingError)


class MediaRoutes:
    def __init__(self, serving: CallServer) -> None:
        self._serving = serving

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [
            ("POST", "/images/generations", self.images),
            ("POST", "/audio/speech", self.speech),
            ("POST", "/audio/transcriptions", self.transcriptions),
            ("POST", "/moderations", self.moderations),
        ]

    @operation("OpenAI", scope="use", body=schemas.ImageRequest, answer=answers.Images, checked_later=True)
    async def images(self, request: web.Request) -> web.StreamResponse:
        """Images from a prompt."""
        return await self._serving.answer(request, "image", await read_object(request))

    @operation("OpenAI", scope="use", body=schemas.SpeechRequest, answers=("audio/*",), checked_later=True)
    async def speech(self, request: web.Request) -> web.StreamResponse:
        """A text spoken."""
        return await self._serving.answer(request, "speech", await read_object(request))

    @operation("OpenAI", scope="use", body=schemas.ModerationRequest, answer=answers.Moderations, checked_later=True)
    async def moderations(self, request: web.Request) -> web.StreamResponse:
        """Whether texts are harmful."""
        return await self._serving.answer(request, "moderation", await read_object(request))

    @operation(
        "OpenAI",
        scope="use",
        body=schemas.TranscriptionRequest,
        answer=answers.Transcription,
        answers=(JSON, "text/*"),
        form=True,
        checked_later=True,
    )
    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        """Speech as text: `file`, `model` and OpenAI's other fields."""
        body, files = await read_form(request)
        if not any(file.field == "file" for file in files):
            raise bad("file", "is required", code="missing_required_parameter")
        return await self._serving.answer(request, "transcription", body, files)


async def read_form(request: web.Request) -> tuple[dict[str, Any], tuple[FormFile, ...]]:
    """The fields of a multipart form and its files. `name[]` and repeated names become arrays.

    Raises `InvalidRequest` for what is no such form, and 413 above `MAX_BODY` bytes.
    """
    if request.content_type != "multipart/form-data":
        raise InvalidRequest("the request body must be multipart/form-data with a file", code="invalid_content_type")
    refuse_compressed(request)
    fields: dict[str, list[str]] = {}
    files: list[FormFile] = []
    left, parts = MAX_BODY, 0
    try:
        async for part in await request.multipart():
            parts += 1
            if parts > MAX_PARTS:
                raise InvalidRequest(f"the form has more than {MAX_PARTS} parts", code="invalid_body")
            if not isinstance(part, BodyPartReader) or not part.name:
                raise InvalidRequest("a part of the form has no name", code="invalid_body")
            data = bytearray()
            while piece := await part.read_chunk(PIECE):
                data += piece
                if len(data) > left:
                    raise web.HTTPRequestEntityTooLarge(MAX_BODY, MAX_BODY)
            left -= len(data)
            if part.filename is not None:
                sort = part.headers.get("Content-Type", "application/octet-stream")
                files.append(FormFile(part.name, part.filename, sort, bytes(data)))
            else:
                fields.setdefault(part.name, []).append(_text(bytes(data), part.name))
    except BROKEN_FORM as e:
        raise InvalidRequest(f"the form cannot be read: {' '.join(str(e).split())}", code="invalid_body") from e
    return _typed(fields), tuple(files)


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise bad(name, "is not UTF-8") from e


# Fields that are something else than texts in JSON.
_JSON = ("temperature", "stream", "exo", "extra_body")


def _typed(fields: Mapping[str, list[str]]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for name, values in fields.items():
        if name.endswith("[]"):
            body[name.removesuffix("[]")] = values
        elif len(values) > 1:
            body[name] = values
        elif name in _JSON:
            try:
                body[name] = json.loads(values[0])
            except ValueError as e:
                raise bad(name, f"is not JSON: {values[0][:40]!r}") from e
        else:
            body[name] = values[0]
    return body
