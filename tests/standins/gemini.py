"""Google's Gemini API: generateContent, streamGenerateContent?alt=sse, embeddings, and its OpenAI-shaped path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from tests.standins.answers import Said, embedding, pieces, say
from tests.standins.openai import OpenAI
from tests.standins.script import Received, Script
from tests.standins.server import Fault, Frames, Whole

FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}
STATUS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


class Gemini(OpenAI):
    provider = "gemini"
    prefixes = ("/v1beta/openai",)

    def routes(self) -> list[web.RouteDef]:
        found = super().routes()
        for version in ("v1beta", "v1"):
            base = f"/{version}/models/{{model}}"
            found += [
                self.ask("POST", base + ":generateContent", self._generate(False), _model),
                self.ask("POST", base + ":streamGenerateContent", self._generate(True), _model),
                self.ask("POST", base + ":embedContent", self._embed, _model),
                self.ask("POST", base + ":batchEmbedContents", self._embed_many, _model),
                self.tell(f"/{version}/models", lambda _: {"models": [{"name": f"models/{m}"} for m in self.models]}),
            ]
        return found

    def key_of(self, request: web.Request) -> str:
        return request.headers.get("x-goog-api-key") or request.query.get("key") or super().key_of(request)

    def error(self, status: int, message: str, code: str) -> Any:
        return {"error": {"code": status, "message": message, "status": code or STATUS.get(status, "UNKNOWN")}}

    def unauthorized(self) -> Fault:
        """Gemini calls a wrong key an invalid argument: 400, not 401."""
        data = self.error(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT")
        data["error"]["details"] = [
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID",
             "domain": "googleapis.com"}
        ]  # fmt: skip
        return Fault(400, data)

    def no_such_model(self, model: str) -> Fault:
        return Fault(404, self.error(404, f"models/{model} is not found for API version v1beta.", ""))

    def _generate(self, streamed: bool) -> Any:
        def answer(received: Received, script: Script) -> Whole | Frames | Fault:
            if not received.body.get("contents"):
                return Fault(400, self.error(400, "* GenerateContentRequest.contents: contents is not specified", ""))
            said = _said(received.body, script)
            number = len(self.requests)
            if not streamed:
                return Whole(_response(received, script, said, number, said.text, True), pieces=len(said.tokens))
            if received.query.get("alt") == "sse":
                return Frames(_stream(received, script, said, number))
            array = [_response(received, script, said, number, said.text, True)]
            return Whole(array, pieces=len(said.tokens))

        return answer

    def _embed(self, received: Received, script: Script) -> Whole:
        return Whole({"embedding": {"values": embedding(_text(received.body.get("content") or {}))}})

    def _embed_many(self, received: Received, script: Script) -> Whole:
        texts = [_text(r.get("content") or {}) for r in received.body.get("requests") or ()]
        return Whole({"embeddings": [{"values": embedding(text)} for text in texts]})


def _model(request: web.Request, body: Any) -> str:
    if "model" in request.match_info:
        return request.match_info["model"]
    return str(body.get("model", ""))


def _text(content: dict[str, Any]) -> str:
    return "".join(part.get("text") or "" for part in content.get("parts") or ())


def _said(body: dict[str, Any], script: Script) -> Said:
    messages: list[tuple[str, str]] = []
    system = body.get("systemInstruction") or body.get("system_instruction")
    if system:
        messages.append(("system", _text(system)))
    for content in body["contents"]:
        results = [p["functionResponse"] for p in content.get("parts") or () if "functionResponse" in p]
        if results:
            messages.append(("tool", json.dumps(results[-1].get("response"))))
        else:
            role = "assistant" if content.get("role") == "model" else "user"
            messages.append((role, _text(content)))
    tools = []
    for tool in body.get("tools") or ():
        for one in tool.get("functionDeclarations") or tool.get("function_declarations") or ():
            tools.append((one["name"], one.get("parameters") or one.get("parametersJsonSchema") or {}))
    limit = (body.get("generationConfig") or {}).get("maxOutputTokens")
    wants_json = (body.get("generationConfig") or {}).get("responseMimeType") == "application/json"
    return say(script, messages, limit=limit, tools=tools, json_object=wants_json)


def _response(received: Received, script: Script, said: Said, number: int, text: str, last: bool) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"text": text}] if text or not (last and said.tools) else []
    if last:
        parts += [{"functionCall": {"name": name, "args": args}} for name, args in said.tools]
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if last:
        candidate["finishReason"] = FINISH[said.finish]
    data: dict[str, Any] = {"candidates": [candidate], "modelVersion": received.model, "responseId": f"resp-{number}"}
    if script.usage:
        done = said.completion_tokens if last else len(pieces(text))
        data["usageMetadata"] = {
            "promptTokenCount": said.prompt_tokens, "candidatesTokenCount": done,
            "totalTokenCount": said.prompt_tokens + done,
        }  # fmt: skip
    return data


def _stream(received: Received, script: Script, said: Said, number: int) -> Iterator[tuple[bytes, bool]]:
    tokens = said.tokens or ("",)
    for i, token in enumerate(tokens):
        data = _response(received, script, said, number, token, i == len(tokens) - 1)
        yield b"data: " + json.dumps(data).encode() + b"\r\n\r\n", True
