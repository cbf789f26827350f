"""OpenAI's routes for text: chat completions, completions, models."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from exo_node.api.dialects.anthropic_models import anthropic_model, is_theirs, models_page
from exo_node.api.guard import principal
from exo_node.api.operations import JSON, SSE, operation
from exo_node.api.ports import Principal
from exo_node.api.schemas import answers
from exo_node.api.schemas import openai as schemas
from exo_node.api.serving import CallServer, read_object
from exo_node.api.views import external_model_view, model_views
from exo_node.errors import ModelNotFound, NotFound
from exo_node.types import Backend

LOCAL = ("exo", "local", "ring")  # names of this cluster's own models as a provider
SHOWN = 40  # models that an error lists


class OpenAIRoutes:
    """Handlers over the adapter, and over the local models' list."""

    def __init__(self, serving: CallServer, backend: Backend) -> None:
        self._serving = serving
        self._backend = backend

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [
            ("POST", "/chat/completions", self.chat),
            ("POST", "/completions", self.completions),
            ("GET", "/models", self.models),
            ("GET", "/models/{id:.+}", self.model),
        ]

    @operation(
        "OpenAI",
        scope="use",
        body=schemas.ChatRequest,
        answer=answers.ChatCompletion,
        answers=(JSON, SSE),
        checked_later=True,
    )
    async def chat(self, request: web.Request) -> web.StreamResponse:
        """An answer to a chat, whole or streamed."""
        return await self._serving.answer(request, "chat", await read_object(request))

    @operation(
        "OpenAI",
        scope="use",
        body=schemas.CompletionRequest,
        answer=answers.Completion,
        answers=(JSON, SSE),
        checked_later=True,
    )
    async def completions(self, request: web.Request) -> web.StreamResponse:
        """A text that goes on after a prompt, whole or streamed."""
        return await self._serving.answer(request, "completion", await read_object(request))

    @operation("OpenAI", scope="see", answer=answers.Models)
    async def models(self, request: web.Request) -> web.Response:
        """Local models first, then the external ones, as far as the key may ask for them; `?provider=` keeps one
        provider's ("exo": the local ones)."""
        rows = await self._rows(request.query.get("provider"))
        if is_theirs(request.path, request.headers):
            return web.json_response(models_page(rows, request.query))
        return web.json_response({"object": "list", "data": rows})

    @operation("OpenAI", scope="see", answer=answers.ModelRow)
    async def model(self, request: web.Request) -> web.Response:
        """One model."""
        wanted = request.match_info["id"]
        rows = await self._rows(None)
        for row in rows:
            if wanted == row["id"] or wanted in row.get("aliases", ()):
                return web.json_response(anthropic_model(row) if is_theirs(request.path, request.headers) else row)
        there = ", ".join(row["id"] for row in rows[:SHOWN]) or "none"
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        raise ModelNotFound(f"no model {wanted!r}; there are: {there}{more}", param="model")

    async def _rows(self, provider: str | None) -> list[dict[str, Any]]:
        """What the caller may ask for."""
        caller = principal()
        rows = await self._all(provider)
        return rows if caller is None else [one for row in rows if (one := allowed(row, caller)) is not None]

    async def _all(self, provider: str | None) -> list[dict[str, Any]]:
        wanted = provider.lower() if provider else None
        rows: list[dict[str, Any]] = []
        if wanted is None or wanted in LOCAL:
            rows = [row for card in await self._backend.models() for row in model_views(card)]
        if wanted in LOCAL:
            return rows
        external = await self._serving.routing.models(wanted)
        if not external and wanted is not None:
            known = dict.fromkeys(("exo", *(row["id"] for row in self._serving.routing.providers())))
            if wanted not in known:
                raise NotFound(f"no provider {provider!r}; there are: {', '.join(known)}", param="provider")
        seen = {row["id"] for row in rows}
        return rows + [external_model_view(row) for row in external if row["id"] not in seen]


def allowed(row: dict[str, Any], caller: Principal) -> dict[str, Any] | None:
    """The model under names that the caller may ask for; None where there is none."""
    names = [row["id"], *row.get("aliases", ())]
    mine = [name for name in names if caller.may_ask(name)]
    if "targets" in row:  # what stands behind an alias
        row = {**row, "targets": [name for name in row["targets"] if caller.may_ask(name)]}
    if len(mine) == len(names):
        return row
    return {**row, "id": mine[0], "name": mine[0], "aliases": mine[1:]} if mine else None
