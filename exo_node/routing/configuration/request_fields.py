"""OpenAI's request fields where a configuration gives them: in `litellm_params`, in `defaults`, at the top.

A wrong one would fail every call, and only then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exo_node import values
from exo_node.routing.configuration.section import Section, positive


def read_field(section: Section, key: str) -> Any:
    """The value of a field of `REQUEST_FIELDS`; None where it is not given, or wrong (reported)."""
    return section.read(key, REQUEST_FIELDS[key], literal_text=key in _TEXTS)


def _texts(raw: Any) -> Any:
    """A text, or a list of texts."""
    if isinstance(raw, str) or (isinstance(raw, list) and all(isinstance(one, str) for one in raw)):
        return raw
    raise ValueError(f"wants a text or a list of texts, got {raw!r}")


def _table(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ValueError(f"wants a table of keys, got {raw!r}")
    return raw


def _list(raw: Any) -> list[Any]:
    if not isinstance(raw, list):
        raise ValueError(f"wants a list, got {raw!r}")
    return raw


def _name_or_table(raw: Any) -> Any:
    if isinstance(raw, dict) or (isinstance(raw, str) and raw):
        return raw
    raise ValueError(f"wants a text or a table of keys, got {raw!r}")


# OpenAI's request fields, and how a configuration's value of each is read.
REQUEST_FIELDS: Mapping[str, Any] = {
    "temperature": values.number(0, 2),
    "top_p": values.number(0, 1),
    "max_tokens": positive,
    "max_completion_tokens": positive,
    "frequency_penalty": values.number(-2, 2),
    "presence_penalty": values.number(-2, 2),
    "seed": values.integer(-(2**63), 2**63 - 1),
    "top_k": values.integer(-1),
    "min_p": values.number(0, 1),
    "n": positive,
    "user": values.text,
    "reasoning_effort": _name_or_table,  # LiteLLM also takes {effort, summary}
    "stop": _texts,
    "response_format": _table,
    "extra_body": _table,
    "logit_bias": _table,
    "top_logprobs": values.integer(0, 20),
    "parallel_tool_calls": values.switch,
    "tools": _list,
    "tool_choice": _name_or_table,
    "modalities": _list,
    "stream_options": _table,
    "dimensions": positive,
    "encoding_format": values.choice("float", "base64"),
}
_TEXTS = frozenset({"user", "reasoning_effort", "stop", "tool_choice", "encoding_format"})  # may be a text
# What a `defaults` table may hold: what means something for every model.
DEFAULTS = (
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "frequency_penalty", "presence_penalty", "seed",
    "top_k", "min_p", "n", "user", "reasoning_effort", "stop", "response_format", "extra_body", "logit_bias",
)  # fmt: skip
