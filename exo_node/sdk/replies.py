"""Answers that read both ways: `reply.choices[0].message.content` and `reply["choices"][0]["message"]["content"]`."""

from __future__ import annotations

from typing import Any


class Reply(dict[str, Any]):
    """A JSON object whose fields are attributes too. A field that OpenAI leaves out of a delta reads as None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            if name in OPTIONAL:
                return None
            raise AttributeError(f"the answer has no field {name!r}; it has {', '.join(self) or 'none'}") from None


# Fields that an answer may leave out and that callers read without asking.
OPTIONAL = frozenset({"content", "role", "tool_calls", "usage", "finish_reason", "reasoning_content", "refusal", "exo"})


def wrap(value: Any) -> Any:
    """JSON with every object a `Reply`."""
    if isinstance(value, dict):
        return Reply({name: wrap(item) for name, item in value.items()})
    if isinstance(value, list):
        return [wrap(item) for item in value]
    return value
