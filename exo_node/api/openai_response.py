"""`TokenDelta`s -> OpenAI's answers: whole objects, and the chunks of a stream. Pure.

Shapes: https://platform.openai.com/docs/api-reference/chat/object and .../chat-streaming .
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from exo_node.api.openai_request import ParsedRequest
from exo_node.types import TokenDelta, TokenLogprob, ToolCallDelta, Usage

LOWEST_LOGPROB = -9999.0  # OpenAI's stand-in for minus infinity, which JSON cannot say


class Answer:
    """Builds the answer to one request from its deltas: feed each with its choice's index, in order.

    `chunks(...)` encodes as it goes (streaming); `whole()` gives the complete object. Use one of the two.
    """

    def __init__(self, request: ParsedRequest, created: int) -> None:
        self._request = request
        self._chat = request.kind == "chat"
        count = len(request.requests)
        self._created = created
        self._texts: list[list[str]] = [[] for _ in range(count)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(count)]
        self._finish: list[str | None] = [None] * count
        self._stopped_by = [""] * count
        self._usage: list[Usage | None] = [None] * count
        self._thoughts: list[list[str]] = [[] for _ in range(count)]
        self._calls: list[list[dict[str, Any]]] = [[] for _ in range(count)]
        self._means: list[float | None] = [None] * count

    # -- streaming

    def opening(self) -> list[dict[str, Any]]:
        """First chunks: the role of each chat choice."""
        count = len(self._texts) if self._chat else 0
        return [self._chunk(i, {"role": "assistant", "content": ""}) for i in range(count)]

    def chunks(self, index: int, delta: TokenDelta) -> Iterable[dict[str, Any]]:
        """The chunks of one delta: its text (if any), and the end of its choice."""
        self._usage[index] = delta.usage or self._usage[index]
        if delta.reasoning:
            yield self._chunk(index, {"reasoning_content": delta.reasoning})
        text, tokens = delta.echo + delta.text, (*delta.echoed, *delta.logprobs)
        if text or (tokens and self._request.top_logprobs is not None):
            piece: Any = {"content": text} if self._chat else text
            yield self._chunk(index, piece, logprobs=self._encode_logprobs(tokens))
        for call in delta.tool_calls:
            yield self._chunk(index, self._call_piece(call))
        if delta.finish_reason is not None:
            self._stopped_by[index] = delta.stopped_by
            yield self._chunk(index, {} if self._chat else "", finish=self._reason(delta.finish_reason))

    def usage_chunk(self) -> dict[str, Any]:
        """The chunk that `stream_options.include_usage` asks for, after all choices."""
        return {**self._head(".chunk"), "choices": [], "usage": self._total()}

    def _chunk(self, index: int, piece: Any, *, finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        body = {"delta" if self._chat else "text": piece}
        choice = {"index": index, **body, "logprobs": logprobs, "finish_reason": finish, **self._stop(index)}
        usage = {"usage": None} if self._request.include_usage else {}
        return {**self._head(".chunk"), "choices": [choice], **usage}

    # -- whole

    def add(self, index: int, delta: TokenDelta) -> None:
        """Collect a delta for `whole()`."""
        if text := delta.echo + delta.text:
            self._texts[index].append(text)
        if delta.reasoning:
            self._thoughts[index].append(delta.reasoning)
        for call in delta.tool_calls:
            self._collect(index, call)
        self._logprobs[index].extend((*delta.echoed, *delta.logprobs))
        self._means[index] = delta.mean_logprob
        self._finish[index] = delta.finish_reason or self._finish[index]
        self._stopped_by[index] = delta.stopped_by or self._stopped_by[index]
        self._usage[index] = delta.usage or self._usage[index]

    def whole(self) -> dict[str, Any]:
        choices = [self._choice(number, index) for number, index in enumerate(self._shown())]
        return {**self._head(""), "choices": choices, "usage": self._total()}

    def _shown(self) -> list[int]:
        """The sequences that become choices: all, or of each prompt's those whose tokens are likeliest in the mean."""
        count, best = self._request.n, self._request.best
        every = range(len(self._texts))
        if best is None:
            return [*every]

        def unlikely(index: int) -> float:
            mean = self._means[index]
            return math.inf if mean is None else -mean

        return [i for at in every[::count] for i in sorted(range(at, at + count), key=unlikely)[:best]]

    def _choice(self, number: int, index: int) -> dict[str, Any]:
        text = "".join(self._texts[index])
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if thoughts := "".join(self._thoughts[index]):
            message["reasoning_content"] = thoughts
        if calls := [_whole_call(call) for call in self._calls[index]]:
            message["content"] = text or None
            message |= {"function_call": calls[0]["function"]} if self._request.functions else {"tool_calls": calls}
        body: dict[str, Any] = {"message": message} if self._chat else {"text": text}
        logprobs = self._encode_logprobs(self._logprobs[index])
        reason = self._reason(self._finish[index])
        return {"index": number, **body, "logprobs": logprobs, "finish_reason": reason, **self._stop(index)}

    def _collect(self, index: int, piece: ToolCallDelta) -> None:
        """A call grows piece by piece."""
        calls = self._calls[index]
        if piece.index == len(calls):
            calls.append({"id": piece.id, "name": piece.name, "arguments": []})
        if piece.arguments:
            calls[piece.index]["arguments"].append(piece.arguments)

    # -- both

    def _reason(self, reason: str | None) -> str | None:
        return "function_call" if reason == "tool_calls" and self._request.functions else reason

    def _call_piece(self, call: ToolCallDelta) -> dict[str, Any]:
        """The delta of a piece of a call: with its first one, who is called."""
        function = {"name": call.name, "arguments": call.arguments} if call.name else {"arguments": call.arguments}
        if self._request.functions:
            return {"function_call": function}
        head = {"index": call.index, "id": call.id, "type": "function"} if call.name else {"index": call.index}
        return {"tool_calls": [{**head, "function": function}]}

    def _stop(self, index: int) -> dict[str, str]:
        """Which stop string ended the choice, in vLLM's field: OpenAI has none, Anthropic's clients are told."""
        met = self._stopped_by[index]
        return {"stop_reason": met} if met else {}

    def _head(self, suffix: str) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self._chat else "text_completion"
        tier = self._request.service_tier
        said = {} if tier is None else {"service_tier": tier}
        return {"id": self._request.id, "object": kind, "created": self._created, "model": self._request.model, **said}

    def _total(self) -> dict[str, Any]:
        """Tokens of all choices; a prompt that several choices share counts once."""
        used = [(i, usage) for i, usage in enumerate(self._usage) if usage is not None]
        prompts = [usage for i, usage in used if i % self._request.n == 0]
        prompt = sum(usage.prompt_tokens for usage in prompts)
        completion = sum(usage.completion_tokens for _, usage in used)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in prompts)},
            "completion_tokens_details": {"reasoning_tokens": sum(usage.reasoning_tokens for _, usage in used)},
        }

    def _encode_logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        top = self._request.top_logprobs
        if top is None:
            return None
        if self._chat:
            return {"content": [_chat_logprob(token, top) for token in tokens], "refusal": None}
        first = [math.isnan(token.logprob) for token in tokens]  # a prompt's first token follows nothing
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [None if one else _finite(t.logprob) for t, one in zip(tokens, first, strict=True)],
            "top_logprobs": [None if one else _top_map(t, top) for t, one in zip(tokens, first, strict=True)]
            if top
            else None,
            "text_offset": [token.offset for token in tokens],
        }


def _whole_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": "".join(call["arguments"])}
    return {"id": call["id"], "type": "function", "function": function}


def _finite(logprob: float) -> float:
    if not logprob < math.inf:
        raise ValueError("a log-probability of the engine's is not a number")
    return max(logprob, LOWEST_LOGPROB)


def _chat_logprob(token: TokenLogprob, top: int) -> dict[str, Any]:
    return {
        "token": token.token,
        "logprob": _finite(token.logprob),
        "bytes": list(token.bytes),
        "top_logprobs": [
            {"token": text, "logprob": _finite(logprob), "bytes": list(raw)} for text, raw, logprob in token.top[:top]
        ],
    }


def _top_map(token: TokenLogprob, top: int) -> Mapping[str, float]:
    """The `top` likeliest and the chosen token. Byte tokens can share a text: the likelier one stays."""
    found: dict[str, float] = {}
    for text, _, logprob in token.top[:top]:
        found.setdefault(text, _finite(logprob))
    found.setdefault(token.token, _finite(token.logprob))
    return found
