"""What Anthropic's API says and OpenAI's chat shape has no words for, on its way to each kind of backend. Pure.

The dialect leaves it in the body of a call: `exo_anthropic`, `cache_control` in parts and tools, `thinking_blocks` in
messages. Claude's own hosts get all of it, the others what they know. A client of OpenAI's may say
`continue_final_message` to the ring, as to vLLM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

KEY = "exo_anthropic"  # {"prefill": bool, "thinking": {"type", "budget_tokens"}, "effort": str}, each may be absent
# What our own thinking blocks are signed with: nobody checks it, and clients throw blocks without any away.
SIGNATURE = "exo"

_CLAUDES = frozenset({"anthropic", "bedrock", "bedrock_converse", "vertex_ai", "azure_ai"})  # with a Claude at them
_WANT_THOUGHTS_BACK = frozenset({"deepseek", "moonshot", "hosted_vllm", "vllm"})  # as reasoning_content
_KNOW_USER = frozenset({"openai", "azure", "openrouter", "anthropic"})
# Models that know reasoning_effort; the others refuse the field. OpenAI's of them refuse max_tokens.
_REASONS = re.compile(r"(^|/)(o[134](-|$)|gpt-[5-9]|gpt-oss|grok-3-mini|gemini-2\.5|gemini-3)", re.IGNORECASE)
_OPENAIS = frozenset({"openai", "azure"})
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_MEDIUM, _HIGH = 4096, 10_000  # budget_tokens from which on thinking is of that effort


def needs_prefill(body: Mapping[str, Any]) -> bool:
    """Whether the answer is to go on with the last message, which is the assistant's."""
    extras = body.get(KEY)
    return isinstance(extras, Mapping) and extras.get("prefill") is True


class ForRing(NamedTuple):
    """A body as the ring's parser takes it, the beginning of the answer that the caller has ("": none), and what
    chat templates are told of thinking, if they know of it."""

    body: Mapping[str, Any]
    prefix: str
    template_hints: dict[str, Any]


def for_ring(body: Mapping[str, Any]) -> ForRing:
    """See `ForRing`."""
    extras = _extras(body)
    goes_on = body.get("continue_final_message") is True and body.get("add_generation_prompt") in (None, False)
    if extras is None and not goes_on:
        return ForRing(body, "", {})
    made = {name: value for name, value in body.items() if name != KEY}
    prefix = ""
    hints: dict[str, Any] = {}
    if goes_on or (extras is not None and extras.get("prefill") is True):
        made.pop("continue_final_message", None)
        made.pop("add_generation_prompt", None)
        made["messages"], prefix = _split(body.get("messages"))
    if extras is not None:
        made["messages"] = [_plain(message, thoughts=True) for message in made.get("messages") or ()]
        effort = "none" if _thinking(extras).get("type") == "disabled" else _effort(extras)
        if effort is not None:
            hints["reasoning_effort"] = effort
    return ForRing(made, prefix, hints)


def for_provider(body: dict[str, Any], provider: str, model: str) -> str:
    """Change `body` to what `provider` takes; gives the beginning of the answer, taken from the messages ("": none)."""
    extras = _extras(body)
    if extras is None:
        return ""
    del body[KEY]
    prefix = ""
    if extras.get("prefill") is True:
        body["messages"], prefix = _split(body.get("messages"))
    messages = body.get("messages") or ()
    if provider in _CLAUDES and (provider == "anthropic" or "claude" in model.lower()):
        body["messages"] = [_signed(message) for message in messages]
        if thinking := _thinking(extras):
            body["thinking"] = dict(thinking)
        if extras.get("effort") is not None:
            body["output_config"] = {"effort": extras["effort"]}
    else:
        body["messages"] = [_plain(message, thoughts=provider in _WANT_THOUGHTS_BACK) for message in messages]
        if body.get("tools"):
            body["tools"] = [{n: v for n, v in tool.items() if n != "cache_control"} for tool in body["tools"]]
        if _REASONS.search(model):
            if (effort := _effort(extras)) is not None:
                body["reasoning_effort"] = effort
            if provider in _OPENAIS and "max_tokens" in body:
                body["max_completion_tokens"] = body.pop("max_tokens")
    if provider not in _KNOW_USER:
        body.pop("user", None)
    return prefix


def _extras(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    extras = body.get(KEY)
    return extras if isinstance(extras, Mapping) else None


def _thinking(extras: Mapping[str, Any]) -> Mapping[str, Any]:
    thinking = extras.get("thinking")
    return thinking if isinstance(thinking, Mapping) else {}


def _effort(extras: Mapping[str, Any]) -> str | None:
    """OpenAI's word: the one asked for, else what the budget of tokens comes to."""
    if (asked := _EFFORTS.get(str(extras.get("effort")))) is not None:
        return asked
    thinking = _thinking(extras)
    budget = thinking.get("budget_tokens")
    if thinking.get("type") == "disabled":
        return "low"
    if type(budget) is not int:
        return None
    return "high" if budget >= _HIGH else "medium" if budget >= _MEDIUM else "low"


def _split(messages: Any) -> tuple[list[Any], str]:
    """The messages but the last one, and its text."""
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], Mapping):
        return list(messages or ()), ""
    if messages[-1].get("role") != "assistant":
        return messages, ""
    return messages[:-1], _text(messages[-1].get("content"))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content or () if isinstance(part.get("text"), str))


def _plain(message: Mapping[str, Any], *, thoughts: bool) -> dict[str, Any]:
    """Without what only Anthropic knows; parts that are all text become one, since many backends take no other."""
    made = {name: value for name, value in message.items() if name != "thinking_blocks"}
    blocks = message.get("thinking_blocks")
    if thoughts and blocks and (said := "".join(str(block.get("thinking") or "") for block in blocks)):
        made["reasoning_content"] = said
    content = message.get("content")
    if isinstance(content, list):
        if all(part.get("type") == "text" for part in content):
            made["content"] = "\n".join(part["text"] for part in content)
        else:
            made["content"] = [{n: v for n, v in part.items() if n != "cache_control"} for part in content]
    return made


def _signed(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Only the thinking blocks that Anthropic signed: it refuses all others."""
    blocks = message.get("thinking_blocks")
    if not blocks:
        return message
    made = {name: value for name, value in message.items() if name != "thinking_blocks"}
    kept = [block for block in blocks if block.get("signature", "") not in ("", SIGNATURE) or block.get("data")]
    if kept:
        made["thinking_blocks"] = kept
    return made
