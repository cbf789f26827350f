"""A LiteLLM proxy: OpenAI's API at the root and under /v1, health, model info."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.standins.openai import OpenAI


class LiteLLMProxy(OpenAI):
    provider = "litellm_proxy"
    prefixes = ("/v1", "")

    def routes(self) -> list[web.RouteDef]:
        return [
            *super().routes(),
            self.tell("/health", lambda _: self._health()),
            self.tell("/health/liveliness", lambda _: "I'm alive!", keyed=False),
            self.tell("/health/readiness", lambda _: {"status": "healthy", "db": "Not connected"}, keyed=False),
            self.tell("/model/info", lambda _: self._info()),
            self.tell("/v1/model/info", lambda _: self._info()),
        ]

    def error(self, status: int, message: str, code: str) -> Any:
        kinds = {401: "auth_error", 429: "throttling_error"}
        error = {"message": message, "type": kinds.get(status, "None"), "param": "None", "code": str(status)}
        return {"error": error}

    def _health(self) -> Any:
        healthy = [{"model": model} for model in self.models]
        return {
            "healthy_endpoints": healthy,
            "unhealthy_endpoints": [],
            "healthy_count": len(healthy),
            "unhealthy_count": 0,
        }

    def _info(self) -> Any:
        return {
            "data": [
                {"model_name": model, "litellm_params": {"model": model}, "model_info": {"max_input_tokens": 8192}}
                for model in self.models
            ]
        }
