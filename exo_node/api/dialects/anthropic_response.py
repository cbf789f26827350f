"""OpenAI's chat answers -> Anthropic's messages, whole and as a stream of events. Pure.

https://docs.anthropic.com/en/api/messages and .../build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from exo_node.api.dialects.anthropic_blocks import Blocks, frame
from exo_node.api.dialects.anthropic_errors import error_body
from exo_node.api.dialects.base import arguments_of, text_of
from exo_node.errors import ExoError
from exo_node.routing.anthropic_extras import SIGNATURE
from exo_node.routing.call import CHARACTERS_PER_TOKEN, Call

REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


class AnthropicEncoder:
    """See `base.Encoder`."""

    def __init__(
        self,
        message_id: str,
        model: str,
        *,
        stops: frozenset[str] = frozenset(),
        show_thoughts: bool = True,
        edits_context: bool = False,
    ) -> None:
        self._input_tokens = 0
        self._id, self._model, self._stops = message_id, model, stops
        self._show_thoughts = show_thoughts
        # Clients may ask for old results and thoughts to be cut from the context there; nothing is, and so it is said.
        self._more: dict[str, Any] = {"context_management": {"applied_edits": []}} if edits_context else {}
        self._blocks = Blocks(message_id, show_thoughts=show_thoughts, signature=SIGNATURE)
        self._started = False
        self._characters = 0
        self._finish: str | None = None
        self._stop: str | None = None
        self._usage: Mapping[str, Any] | None = None

    def asked(self, call: Call) -> None:
        """The prompt's estimated length is all that is known when a stream begins; the true one comes with its end."""
        self._input_tokens = call.prompt_tokens

    # -- streaming

    def feed(self, event: Mapping[str, Any]) -> bytes:
        """See `base.Encoder.feed`."""
        if event.get("usage"):
            self._usage = event["usage"]
        out = b"" if self._started else self._start(event)
        choices = event.get("choices")
        if not choices:
            return out
        choice = choices[0]
        delta = choice.get("delta")
        if delta:
            text = delta.get("content")
            if text and len(delta) == 1 and isinstance(text, str):
                self._characters += len(text)
                out += self._blocks.text(text)
            else:
                out += self._pieces(delta)
        if choice.get("finish_reason"):
            self._finish, self._stop = choice["finish_reason"], choice.get("stop_reason")
        return out

    def end(self) -> bytes:
        """See `base.Encoder.end`."""
        begun = b"" if self._started else self._start({})
        blocks = self._blocks.end()
        reason, stop = _stop_reason(self._finish, self._stop, self._stops, tools=self._blocks.tools)
        usage = self._usage
        if usage is None:
            counted = {
                "input_tokens": self._input_tokens,
                "output_tokens": -(-self._characters // CHARACTERS_PER_TOKEN),
            }
        else:
            counted = _usage(usage)
        delta = {"stop_reason": reason, "stop_sequence": stop}
        last = {"type": "message_delta", "delta": delta, "usage": counted, **self._more}
        return begun + blocks + frame("message_delta", last) + frame("message_stop", {"type": "message_stop"})

    def fail(self, error: ExoError) -> bytes:
        """See `base.Encoder.fail`."""
        return frame("error", error_body(error))

    def _start(self, event: Mapping[str, Any]) -> bytes:
        self._started = True
        message = {
            **self._head(event),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self._input_tokens, "output_tokens": 0},
        }
        return frame("message_start", {"type": "message_start", "message": message})

    def _pieces(self, delta: Mapping[str, Any]) -> bytes:
        out = []
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            self._characters += len(thought)
            out.append(self._blocks.thought(thought))
        for block in delta.get("thinking_blocks") or ():
            if block.get("signature"):
                out.append(self._blocks.signature(block["signature"]))
            elif block.get("data"):
                out.append(self._blocks.redacted(block["data"]))
        for text in (text_of(delta.get("content")), delta.get("refusal")):
            if text:
                self._characters += len(text)
                out.append(self._blocks.text(text))
        for position, call in enumerate(delta.get("tool_calls") or ()):
            function = call.get("function") or {}
            arguments = arguments_of(function)
            self._characters += len(arguments)
            index = call.get("index")
            out.append(
                self._blocks.call(
                    position if index is None else index, call.get("id") or "", function.get("name") or "", arguments
                )
            )
        return b"".join(out)

    # -- whole

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """See `base.Encoder.whole`."""
        choices = answer.get("choices")
        if not choices:
            raise ExoError("the answer has no choices", status=502)
        choice = choices[0]
        message = choice.get("message") or {}
        finish = choice.get("finish_reason")
        content = [*self._thoughts(message), *_said(message), *_calls(message, cut=finish == "length")]
        tools = any(block["type"] == "tool_use" for block in content)
        reason, stop = _stop_reason(finish, choice.get("stop_reason"), self._stops, tools=tools)
        return {
            **self._head(answer),
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": _usage(answer.get("usage") or {}),
            **self._more,
        }

    def _thoughts(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        made = []
        for block in message.get("thinking_blocks") or ():
            if block.get("type") == "redacted_thinking":
                made.append({"type": "redacted_thinking", "data": block.get("data", "")})
            else:
                made.append(self._thought(block.get("thinking") or "", block.get("signature")))
        thought = message.get("reasoning_content") or message.get("reasoning")
        return made or ([self._thought(thought, None)] if thought else [])

    def _thought(self, text: str, signature: str | None) -> dict[str, Any]:
        return {
            "type": "thinking",
            "thinking": text if self._show_thoughts else "",
            "signature": signature or SIGNATURE,
        }

    def _head(self, event: Mapping[str, Any]) -> dict[str, Any]:
        model = event.get("model")
        return {"id": self._id, "type": "message", "role": "assistant", "model": model or self._model}


def _said(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    texts = (text_of(message.get("content")), message.get("refusal"))
    return [{"type": "text", "text": text} for text in texts if text]


def _calls(message: Mapping[str, Any], *, cut: bool) -> list[dict[str, Any]]:
    """Raises `ExoError` for arguments that are no object, unless the answer was `cut` there: then the call is left out,
    as the stop_reason explains."""
    made = []
    for i, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        try:
            given = orjson.loads(arguments_of(function) or "{}")
        except orjson.JSONDecodeError:
            given = None
        if isinstance(given, dict):
            name = function.get("name") or ""
            made.append({"type": "tool_use", "id": call.get("id") or f"toolu_{i}", "name": name, "input": given})
        elif not cut:
            name = str(function.get("name"))[:60]
            raise ExoError(f"the model called {name!r} with arguments that are no JSON object", status=502)
    return made


def _stop_reason(finish: str | None, stop: Any, stops: frozenset[str], *, tools: bool) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence). Only the ring and vLLM say which stop string it was (`stop_reason`)."""
    if finish == "stop" and isinstance(stop, str) and stop in stops:
        return "stop_sequence", stop
    if tools and finish in ("stop", None):
        return "tool_use", None
    reason = REASONS.get(finish or "", "end_turn")
    return ("end_turn" if reason == "tool_use" and not tools else reason), None


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Anthropic counts what was read from a cache, or written to one, apart from the other input."""
    details = usage.get("prompt_tokens_details") or {}
    read = usage.get("cache_read_input_tokens") or details.get("cached_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or details.get("cache_creation_tokens") or 0
    return {
        "input_tokens": max(0, (usage.get("prompt_tokens") or 0) - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.get("completion_tokens") or 0,
    }
