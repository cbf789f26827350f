"""Azure OpenAI: deployment paths with api-version, and the v1 path; the `api-key` header; its error shapes."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.standins.openai import OpenAI, frame
from tests.standins.server import Fault

FILTER = {"hate": {"filtered": False, "severity": "safe"}}


class Azure(OpenAI):
    """`models` are deployment names."""

    provider = "azure"
    prefixes = ("/openai/v1",)
    # Azure's first event has no choices.
    first_frames = (
        frame(
            {
                "id": "", "object": "", "created": 0, "model": "", "choices": [],
                "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": FILTER}],
            }
        ),
    )  # fmt: skip

    def routes(self) -> list[web.RouteDef]:
        found = super().routes()
        base = "/openai/deployments/{deployment}"
        for path, answer in {
            "chat/completions": self.chat,
            "completions": self.completion,
            "embeddings": self.embeddings,
            "images/generations": self.image,
            "audio/speech": self.speech,
            "audio/transcriptions": self.transcription,
        }.items():
            found.append(self.ask("POST", f"{base}/{path}", _versioned(answer), _deployment))
        return found

    def key_of(self, request: web.Request) -> str:
        return request.headers.get("api-key") or super().key_of(request)

    def error(self, status: int, message: str, code: str) -> Any:
        return {"error": {"code": code or str(status), "message": message}}

    def unauthorized(self) -> Fault:
        return Fault(
            401, self.error(401, "Access denied due to invalid subscription key or wrong API endpoint.", "401")
        )

    def no_such_model(self, model: str) -> Fault:
        message = "The API deployment for this resource does not exist."
        return Fault(404, self.error(404, message, "DeploymentNotFound"))


def _deployment(request: web.Request, body: Any) -> str:
    return request.match_info["deployment"]


def _versioned(answer: Any) -> Any:
    """Azure answers 404 to a deployment path without api-version."""

    def checked(received: Any, script: Any) -> Any:
        if not received.query.get("api-version"):
            return Fault(404, {"error": {"code": "404", "message": "Resource not found"}})
        return answer(received, script)

    return checked
