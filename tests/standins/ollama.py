"""Ollama: /api/chat and /api/generate as NDJSON, tags, show, embeddings, and its OpenAI-shaped /v1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from tests.standins.answers import Said, embedding, pieces, say
from tests.standins.openai import OpenAI
from tests.standins.script import Received, Script
from tests.standins.server import Fault, Frames, Whole

WHEN = "2026-01-01T00:00:00Z"


class Ollama(OpenAI):
    """Its NDJSON streams unless the body says `stream: false`."""

    provider = "ollama"
    prefixes = ("/v1",)

    def routes(self) -> list[web.RouteDef]:
        return [
            *super().routes(),
            self.ask("POST", "/api/chat", self._chat),
            self.ask("POST", "/api/generate", self._generate),
            self.ask("POST", "/api/embed", self._embed),
            self.ask(
                "POST", "/api/embeddings", lambda r, s: Whole({"embedding": embedding(str(r.body.get("prompt")))})
            ),
            self.ask("POST", "/api/show", self._show),
            self.tell("/api/tags", lambda _: {"models": [_tag(m) for m in self.models]}),
            self.tell("/api/version", lambda _: {"version": "0.12.0"}),
            self.tell("/", lambda _: "Ollama is running"),
        ]

    def no_such_model(self, model: str) -> Fault:
        if self.requests and self.requests[-1].path.startswith("/v1/"):
            return super().no_such_model(model)
        return Fault(404, {"error": f"model '{model}' not found"})

    def error(self, status: int, message: str, code: str) -> Any:
        if self.requests and self.requests[-1].path.startswith("/v1/"):
            return super().error(status, message, code)
        return {"error": message}

    def error_frame(self, message: str, code: str) -> bytes:
        if self.requests[-1].path.startswith("/v1/"):
            return super().error_frame(message, code)
        return json.dumps({"error": message}).encode() + b"\n"

    def _chat(self, received: Received, script: Script) -> Whole | Frames | Fault:
        body = received.body
        messages = [(str(m.get("role")), str(m.get("content") or "")) for m in body.get("messages") or ()]
        tools = [(t["function"]["name"], t["function"].get("parameters") or {}) for t in body.get("tools") or ()]
        said = say(script, messages, limit=_limit(body), tools=tools, json_object=bool(body.get("format")),
                   schema=body.get("format"))  # fmt: skip

        def message(text: str) -> dict[str, Any]:
            return {"message": {"role": "assistant", "content": text}}

        calls = [{"function": {"name": name, "arguments": args}} for name, args in said.tools]
        if body.get("stream", True):
            return _ndjson(received, script, said, message, calls)
        whole = message(said.text)
        if calls:
            whole["message"]["tool_calls"] = calls
        return Whole({**_head(received), **whole, **_end(script, said)}, pieces=len(said.tokens))

    def _generate(self, received: Received, script: Script) -> Whole | Frames | Fault:
        body = received.body
        said = say(
            script, [("user", str(body.get("prompt", "")))], limit=_limit(body), json_object=bool(body.get("format"))
        )

        def message(text: str) -> dict[str, Any]:
            return {"response": text}

        if body.get("stream", True):
            return _ndjson(received, script, said, message, [])
        return Whole({**_head(received), **message(said.text), **_end(script, said)}, pieces=len(said.tokens))

    def _embed(self, received: Received, script: Script) -> Whole:
        given = received.body.get("input", "")
        texts = [given] if isinstance(given, str) else list(given)
        data: dict[str, Any] = {"model": received.model, "embeddings": [embedding(text) for text in texts]}
        if script.usage:
            data["prompt_eval_count"] = sum(len(pieces(text)) for text in texts)
        return Whole(data)

    def _show(self, received: Received, script: Script) -> Whole | Fault:
        model = str(received.body.get("model") or received.body.get("name") or "")
        if self.models and model not in self.models:
            return Fault(404, {"error": f"model '{model}' not found"})
        info = {"general.architecture": "llama", "llama.context_length": 8192}
        return Whole({"template": "{{ .Prompt }}", "model_info": info, "capabilities": ["completion", "tools"]})


def _limit(body: dict[str, Any]) -> int | None:
    return (body.get("options") or {}).get("num_predict")


def _head(received: Received) -> dict[str, Any]:
    return {"model": received.model, "created_at": WHEN}


def _end(script: Script, said: Said) -> dict[str, Any]:
    end: dict[str, Any] = {"done": True, "done_reason": "length" if said.finish == "length" else "stop"}
    if script.usage:
        end |= {
            "total_duration": 2_000_000, "load_duration": 0, "prompt_eval_count": said.prompt_tokens,
            "prompt_eval_duration": 1_000_000, "eval_count": said.completion_tokens, "eval_duration": 1_000_000,
        }  # fmt: skip
    return end


def _ndjson(received: Received, script: Script, said: Said, message: Any, calls: list[Any]) -> Frames:
    def line(data: dict[str, Any]) -> bytes:
        return json.dumps({**_head(received), **data}).encode() + b"\n"

    def frames() -> Iterator[tuple[bytes, bool]]:
        for token in said.tokens:
            yield line({**message(token), "done": False}), True
        if calls:
            called = message("")
            called["message"]["tool_calls"] = calls
            yield line({**called, "done": False}), True
        yield line({**message(""), **_end(script, said)}), True

    return Frames(frames(), "application/x-ndjson")


def _tag(model: str) -> dict[str, Any]:
    return {"name": model, "model": model, "modified_at": WHEN, "size": 1, "digest": "0" * 64, "details": {}}
