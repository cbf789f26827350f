"""Anthropic's Messages API: exact event sequence, tool use, its refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from tests.standins.answers import Said, pieces, say, text_of
from tests.standins.script import Received, Script
from tests.standins.server import Fault, Frames, Standin, Whole

STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 529: "overloaded_error",
}  # fmt: skip


def event(data: dict[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


class Anthropic(Standin):
    provider = "anthropic"

    def routes(self) -> list[web.RouteDef]:
        return [
            self.ask("POST", "/v1/messages", self.messages),
            self.ask("POST", "/v1/messages/count_tokens", lambda r, s: Whole({"input_tokens": _prompt_tokens(r.body)})),
            self.tell(
                "/v1/models",
                lambda _: {
                    "data": [{"type": "model", "id": m, "display_name": m} for m in self.models],
                    "has_more": False,
                },
            ),
        ]

    def key_of(self, request: web.Request) -> str:
        return request.headers.get("x-api-key") or super().key_of(request)

    def error(self, status: int, message: str, code: str) -> Any:
        kind = code or KINDS.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}

    def error_frame(self, message: str, code: str) -> bytes:
        return event({"type": "error", "error": {"type": code or "overloaded_error", "message": message}})

    def unauthorized(self) -> Fault:
        return Fault(401, self.error(401, "invalid x-api-key", ""))

    def no_such_model(self, model: str) -> Fault:
        return Fault(404, self.error(404, f"model: {model}", ""))

    def messages(self, received: Received, script: Script) -> Whole | Frames | Fault:
        body = received.body
        wrong = ""
        if "anthropic-version" not in received.headers:
            wrong = "anthropic-version: header is required"
        elif not isinstance(body.get("max_tokens"), int):
            wrong = "max_tokens: Field required"
        elif not body.get("messages"):
            wrong = "messages: at least one message is required"
        else:
            last = body["messages"][-1]
            if last.get("role") == "assistant" and text_of(last.get("content")) != text_of(last["content"]).rstrip():
                wrong = "messages: final assistant content cannot end with trailing whitespace"
        if wrong:
            return Fault(400, self.error(400, wrong, ""))
        said = _said(body, script)
        number = len(self.requests)
        message: dict[str, Any] = {
            "id": f"msg_{number}", "type": "message", "role": "assistant", "model": received.model, "content": [],
            "stop_reason": None, "stop_sequence": None,
        }  # fmt: skip
        counts = {"input_tokens": said.prompt_tokens, "output_tokens": said.completion_tokens}
        if body.get("stream"):
            return Frames(_events(message, said, script))
        content: list[dict[str, Any]] = [{"type": "text", "text": said.text}] if said.tokens else []
        content += [
            {"type": "tool_use", "id": f"toolu_{i}", "name": name, "input": args}
            for i, (name, args) in enumerate(said.tools)
        ]
        message |= {"content": content, "stop_reason": STOP[said.finish], "usage": counts if script.usage else {}}
        return Whole(message, pieces=len(said.tokens))


def _events(message: dict[str, Any], said: Said, script: Script) -> Iterator[tuple[bytes, bool]]:
    start: dict[str, int] = {"input_tokens": said.prompt_tokens, "output_tokens": 1}
    yield event({"type": "message_start", "message": {**message, "usage": start if script.usage else {}}}), False
    index = 0
    if said.tokens or not said.tools:
        block = {"type": "text", "text": ""}
        yield event({"type": "content_block_start", "index": 0, "content_block": block}), False
        yield event({"type": "ping"}), False
        for token in said.tokens:
            delta = {"type": "text_delta", "text": token}
            yield event({"type": "content_block_delta", "index": 0, "delta": delta}), True
        yield event({"type": "content_block_stop", "index": 0}), not said.tokens
        index = 1
    for i, (name, args) in enumerate(said.tools):
        use = {"type": "tool_use", "id": f"toolu_{i}", "name": name, "input": {}}
        yield event({"type": "content_block_start", "index": index, "content_block": use}), True
        text = json.dumps(args)
        for at in range(0, len(text), 8):
            part = {"type": "input_json_delta", "partial_json": text[at : at + 8]}
            yield event({"type": "content_block_delta", "index": index, "delta": part}), True
        yield event({"type": "content_block_stop", "index": index}), False
        index += 1
    ending: dict[str, Any] = {"stop_reason": STOP[said.finish], "stop_sequence": None}
    counts = {"usage": {"output_tokens": said.completion_tokens}} if script.usage else {}
    yield event({"type": "message_delta", "delta": ending, **counts}), True
    yield event({"type": "message_stop"}), False


def _said(body: dict[str, Any], script: Script) -> Said:
    messages: list[tuple[str, str]] = []
    if body.get("system"):
        messages.append(("system", text_of(body["system"])))
    for message in body["messages"]:
        content = message.get("content")
        results = [p for p in content if p.get("type") == "tool_result"] if isinstance(content, list) else []
        if results:
            messages.append(("tool", " ".join(text_of(p.get("content")) for p in results)))
        else:
            messages.append((str(message.get("role")), text_of(content)))
    tools = [(t["name"], t.get("input_schema") or {}) for t in body.get("tools") or () if "name" in t]
    if (body.get("tool_choice") or {}).get("type") == "none":
        tools = []
    form = body.get("output_format") or (body.get("output_config") or {}).get("format") or {}
    return say(script, messages, limit=body["max_tokens"], tools=tools, schema=form.get("schema"))


def _prompt_tokens(body: dict[str, Any]) -> int:
    return sum(len(pieces(text_of(m.get("content")))) for m in body.get("messages") or ())
