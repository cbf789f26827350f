"""Cohere's rerank API, v2 and v1."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.standins.openai import rerank
from tests.standins.script import Received, Script
from tests.standins.server import Fault, Standin, Whole


class Cohere(Standin):
    provider = "cohere"

    def routes(self) -> list[web.RouteDef]:
        return [
            self.ask("POST", "/v2/rerank", self._answer("2")),
            self.ask("POST", "/v1/rerank", self._answer("1")),
            self.tell("/v1/models", lambda _: {"models": [{"name": m, "endpoints": ["rerank"]} for m in self.models]}),
        ]

    def error(self, status: int, message: str, code: str) -> Any:
        return {"id": "error-1", "message": message}

    def unauthorized(self) -> Fault:
        return Fault(401, self.error(401, "invalid api token", ""))

    def no_such_model(self, model: str) -> Fault:
        return Fault(404, self.error(404, f"model '{model}' not found", ""))

    def _answer(self, version: str) -> Any:
        def answer(received: Received, script: Script) -> Whole | Fault:
            if not received.body.get("documents"):
                return Fault(400, self.error(400, "invalid request: list of documents must not be empty", ""))
            return Whole(rerank(received.body, version))

        return answer
