"""OpenAI's API: chat, completions, embeddings, models, images, audio, moderations; also the base of its imitators."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from tests.standins.answers import Said, embedding, embedding_base64, pieces, relevance, say, text_of
from tests.standins.script import Received, Script
from tests.standins.server import Fault, Frames, Standin, Whole

CREATED = 1_760_000_000
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nstand-in").decode()
TYPES = {400: "invalid_request_error", 401: "invalid_request_error", 404: "invalid_request_error", 429: "requests"}


def frame(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


class OpenAI(Standin):
    provider = "openai"
    prefixes: tuple[str, ...] = ("/v1",)
    first_frames: tuple[bytes, ...] = ()  # what an imitator sends before the answer's first frame

    def routes(self) -> list[web.RouteDef]:
        found: list[web.RouteDef] = []
        for prefix in self.prefixes:
            if prefix == "/v1":
                found.append(self.ask("POST", "/beta/chat/completions", self.chat))  # DeepSeek's, for prefixes
            found += [
                self.ask("POST", f"{prefix}/chat/completions", self.chat),
                self.ask("POST", f"{prefix}/completions", self.completion),
                self.ask("POST", f"{prefix}/embeddings", self.embeddings),
                self.ask("POST", f"{prefix}/rerank", self.rerank),
                self.ask("POST", f"{prefix}/images/generations", self.image),
                self.ask("POST", f"{prefix}/audio/speech", self.speech),
                self.ask("POST", f"{prefix}/audio/transcriptions", self.transcription),
                self.ask("POST", f"{prefix}/moderations", self.moderation),
                self.tell(f"{prefix}/models", lambda _: self.model_list()),
                self.tell(prefix + "/models/{model:.+}", lambda r: self.model_info(r.match_info["model"])),
            ]
        return found

    def error(self, status: int, message: str, code: str) -> Any:
        kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": code or None}}

    def model_list(self) -> Any:
        return {"object": "list", "data": [self._card(model) for model in self.models]}

    def model_info(self, model: str) -> Any:
        return self._card(model) if not self.models or model in self.models else self.no_such_model(model)

    def _card(self, model: str) -> Any:
        return {"id": model, "object": "model", "created": CREATED, "owned_by": self.provider}

    def chat(self, received: Received, script: Script) -> Whole | Frames | Fault:
        body = received.body
        if not isinstance(body.get("messages"), list) or not body["messages"]:
            return Fault(400, self.error(400, "Missing required parameter: 'messages'.", "missing_required_parameter"))
        messages = [(str(m.get("role")), text_of(m.get("content"))) for m in body["messages"]]
        tools = [(t["function"]["name"], t["function"].get("parameters")) for t in body.get("tools") or ()]
        if body.get("tool_choice") == "none":
            tools = []
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        wanted = body.get("response_format") or {}
        wants_json = wanted.get("type") in ("json_object", "json_schema")
        schema = (wanted.get("json_schema") or {}).get("schema")
        said = say(script, messages, limit=limit, tools=tools, json_object=wants_json, schema=schema)
        if body.get("stream"):
            return Frames(self._chat_frames(received, script, said))
        message: dict[str, Any] = {"role": "assistant", "content": said.text if not said.tools else None}
        if said.tools:
            message["tool_calls"] = [_tool_call(i, name, args) for i, (name, args) in enumerate(said.tools)]
        choice = {
            "message": message,
            "logprobs": self._logprobs(body, script, said.tokens),
            "finish_reason": said.finish,
        }
        n = int(body.get("n") or 1)
        data = self._head(received, "chatcmpl", "chat.completion")
        data["choices"] = [{"index": i, **choice} for i in range(n)]
        if script.usage:
            data["usage"] = usage(said, n)
        return Whole(data, pieces=len(said.tokens))

    def _chat_frames(self, received: Received, script: Script, said: Said) -> Iterator[tuple[bytes, bool]]:
        body = received.body
        asked = bool((body.get("stream_options") or {}).get("include_usage")) and script.usage
        head = self._head(received, "chatcmpl", "chat.completion.chunk")
        empty = {"usage": None} if asked else {}
        n = int(body.get("n") or 1)

        def chunk(index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> bytes:
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            return frame({**head, "choices": [choice], **empty})

        for first in self.first_frames:
            yield first, False
        for i in range(n):
            yield chunk(i, {"role": "assistant", "content": None if said.tools else "", "refusal": None}), False
        for token in said.tokens:
            for i in range(n):
                yield chunk(i, {"content": token}, logprobs=self._logprobs(body, script, (token,))), i == 0
        for position, (name, args) in enumerate(said.tools):
            call = _tool_call(position, name, {})
            call["function"]["arguments"] = ""
            yield chunk(0, {"tool_calls": [{"index": position, **call}]}), True
            text = json.dumps(args)
            for start in range(0, len(text), 8):
                part = {"index": position, "function": {"arguments": text[start : start + 8]}}
                yield chunk(0, {"tool_calls": [part]}), True
        for i in range(n):
            yield chunk(i, {}, said.finish), i == 0
        if asked:
            yield frame({**head, "choices": [], "usage": usage(said, n)}), False
        if script.done:
            yield b"data: [DONE]\n\n", False

    def completion(self, received: Received, script: Script) -> Whole | Frames | Fault:
        body = received.body
        prompt = body.get("prompt", "")
        said = say(script, [("user", prompt if isinstance(prompt, str) else str(prompt))], limit=body.get("max_tokens"))
        head = self._head(received, "cmpl", "text_completion")
        if not body.get("stream"):
            choice = {"index": 0, "text": said.text, "logprobs": None, "finish_reason": said.finish}
            return Whole({**head, "choices": [choice], **({"usage": usage(said)} if script.usage else {})},
                         pieces=len(said.tokens))  # fmt: skip

        def frames() -> Iterator[tuple[bytes, bool]]:
            for token in said.tokens:
                choice = {"index": 0, "text": token, "logprobs": None, "finish_reason": None}
                yield frame({**head, "choices": [choice]}), True
            last = {"index": 0, "text": "", "logprobs": None, "finish_reason": said.finish}
            yield frame({**head, "choices": [last]}), True
            if (body.get("stream_options") or {}).get("include_usage") and script.usage:
                yield frame({**head, "choices": [], "usage": usage(said)}), False
            if script.done:
                yield b"data: [DONE]\n\n", False

        return Frames(frames())

    def embeddings(self, received: Received, script: Script) -> Whole | Fault:
        body = received.body
        given = body.get("input", "")
        inputs = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
        if not inputs:
            return Fault(400, self.error(400, "'$.input' is invalid.", "invalid_value"))
        vectors = [embedding(str(text), int(body.get("dimensions") or 8)) for text in inputs]
        packed = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": embedding_base64(vector) if packed else vector}
            for i, vector in enumerate(vectors)
        ]
        tokens = sum(len(pieces(str(text))) for text in inputs)
        counts = {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}} if script.usage else {}
        return Whole({"object": "list", "data": data, "model": received.model, **counts})

    def rerank(self, received: Received, script: Script) -> Whole | Fault:
        return Whole(rerank(received.body))

    def image(self, received: Received, script: Script) -> Whole | Fault:
        body = received.body
        one = {"b64_json": PNG} if body.get("response_format") != "url" else {"url": f"{self.url}/image.png"}
        return Whole({"created": CREATED, "data": [one] * int(body.get("n") or 1)})

    def speech(self, received: Received, script: Script) -> Whole | Fault:
        return Whole(raw=b"ID3" + str(received.body.get("input", "")).encode(), content_type="audio/mpeg")

    def transcription(self, received: Received, script: Script) -> Whole | Fault:
        if "file" not in received.files:
            return Fault(400, self.error(400, "'file' is a required property", ""))
        text = script.text or f"heard {len(received.files['file'][1])} bytes"
        if received.body.get("response_format") == "text":
            return Whole(raw=text.encode() + b"\n", content_type="text/plain")
        return Whole({"text": text})

    def moderation(self, received: Received, script: Script) -> Whole | Fault:
        given = received.body.get("input", "")
        texts = [given] if isinstance(given, str) else given
        results = [
            {"flagged": "kill" in str(t), "categories": {"violence": "kill" in str(t)},
             "category_scores": {"violence": 0.9 if "kill" in str(t) else 0.1}}
            for t in texts
        ]  # fmt: skip
        return Whole({"id": "modr-1", "model": received.model or "omni-moderation-latest", "results": results})

    def _head(self, received: Received, kind: str, of: str) -> dict[str, Any]:
        number = len(self.requests)
        return {"id": f"{kind}-{number}", "object": of, "created": CREATED, "model": received.model,
                "system_fingerprint": None}  # fmt: skip

    def _logprobs(self, body: dict[str, Any], script: Script, tokens: tuple[str, ...]) -> Any:
        if not body.get("logprobs"):
            return None
        return {
            "content": [
                {"token": t, "logprob": script.logprob, "bytes": list(t.encode()), "top_logprobs": []} for t in tokens
            ],
            "refusal": None,
        }


def usage(said: Said, n: int = 1) -> dict[str, Any]:
    out = said.completion_tokens * n
    return {"prompt_tokens": said.prompt_tokens, "completion_tokens": out, "total_tokens": said.prompt_tokens + out}


def _tool_call(position: int, name: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"call_{position}", "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}


def rerank(body: dict[str, Any], version: str = "2") -> dict[str, Any]:
    """Cohere's answer, which every reranking server imitates."""
    documents = [d if isinstance(d, str) else str(d.get("text", "")) for d in body.get("documents") or ()]
    ranked = sorted(
        ({"index": i, "relevance_score": relevance(str(body.get("query", "")), d)} for i, d in enumerate(documents)),
        key=lambda r: (-float(r["relevance_score"]), r["index"]),
    )
    results: list[dict[str, Any]] = [dict(r) for r in ranked[: body.get("top_n") or len(documents)]]
    if body.get("return_documents"):
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    meta = {"api_version": {"version": version}, "billed_units": {"search_units": 1}}
    return {"id": "rerank-1", "results": results, "meta": meta}
