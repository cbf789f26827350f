"""Anthropic's routes: /v1/messages and /v1/messages/count_tokens, also below /anthropic for clients with that address.

Keys (`x-api-key` or Bearer) are the guard's business; any `anthropic-version` is taken. An unknown field is refused, as
Anthropic does it, unless `anthropic-beta` says that the client's API may be newer than ours (as Claude Code's is with
every release): then the answer's header `x-exo-ignored` names it.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from aiohttp import web

from exo_node.api.dialects.anthropic_blocks import PING
from exo_node.api.dialects.anthropic_errors import error_body
from exo_node.api.dialects.anthropic_models import PREFIX, VERSION, is_theirs
from exo_node.api.dialects.anthropic_request import ORIGINS, decode, decode_prompt, unknown_fields
from exo_node.api.dialects.base import Wire
from exo_node.api.dialects.counting import ESTIMATED, count_prompt
from exo_node.api.dialects.origins import naming
from exo_node.api.dialects.serving import DialectServer
from exo_node.api.errors import REQUEST_ID, ErrorShape
from exo_node.api.fields import bad
from exo_node.api.operations import JSON, SSE, operation
from exo_node.api.schemas import anthropic as schemas
from exo_node.api.serving import CallServer, read_object
from exo_node.config import Settings
from exo_node.routing.frames import header_value
from exo_node.types import Backend

WIRE = Wire(keep_alive=PING)
MESSAGES = "/v1/messages"
SHAPES: dict[str, ErrorShape] = {MESSAGES: error_body, PREFIX: error_body}
HEADER_SHAPES: dict[str, ErrorShape] = {VERSION: error_body}


class AnthropicRoutes:
    """Handlers over the adapter; `backend` counts the tokens of local models."""

    def __init__(self, serving: CallServer, backend: Backend, settings: Settings) -> None:
        self._server = DialectServer(serving)
        self._backend = backend
        self._settings = settings

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path, handler)."""
        return [("POST", MESSAGES, self.messages), ("POST", f"{MESSAGES}/count_tokens", self.count_tokens)]

    @operation(
        "Anthropic", scope="use", body=schemas.MessagesRequest, answer=schemas.AnthropicMessage, answers=(JSON, SSE)
    )
    async def messages(self, request: web.Request) -> web.StreamResponse:
        """An answer to a chat as Anthropic gives it, whole or streamed."""
        body, ignored = await _read(request)
        decoded = decode(body, f"msg_{random.getrandbits(96):024x}")
        with naming(ORIGINS):
            return await self._server.answer(request, replace(decoded, headers=ignored), WIRE)

    @operation("Anthropic", scope="use", body=schemas.CountTokensRequest, answer=schemas.TokenCount)
    async def count_tokens(self, request: web.Request) -> web.Response:
        """A header says where they are an estimate."""
        serving = self._server.serving
        body, ignored = await _read(request)
        prompt = decode_prompt(body)
        with naming(ORIGINS):
            call = serving.call(request, "chat", prompt.body)
            tokens, exact = await count_prompt(serving, self._backend, self._settings, call)
        headers = ignored if exact else {**ignored, ESTIMATED: "true"}
        return web.json_response({"input_tokens": tokens}, headers=headers)


async def _read(request: web.Request) -> tuple[dict[str, Any], dict[str, str]]:
    """The body, and the header that names its unknown fields. Raises `InvalidRequest` where they are not allowed."""
    body = await read_object(request)
    unknown = unknown_fields(body)
    if not unknown:
        return body, {}
    if "anthropic-beta" not in request.headers:
        raise bad(unknown[0], "Extra inputs are not permitted", code="unknown_parameter")
    return body, {"x-exo-ignored": header_value(", ".join(unknown))}


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Anthropic's name of the header that has it: their SDKs show it."""
    if request.path.startswith(MESSAGES) or is_theirs(request.path, request.headers):
        response.headers["request-id"] = REQUEST_ID.get()
