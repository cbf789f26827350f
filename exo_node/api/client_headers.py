"""Lines about the client itself that some put at the top of their system prompt. Pure.

Claude Code's is "x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch=fa690;" with another `cch`
in every request. It is for its maker's accounting and no instruction; with it no prompt would begin as the one before
did, and the ring's prefix cache would miss from the first token on. Times and dates are none of these: models are to
know them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Pairs of a name and a value (what follows them on their line stays: some clients join blocks without a line's end),
# else the line.
_HEADERS = re.compile(
    r"(?:x-anthropic-[a-z-]+:(?:(?:[ \t]*\w+=[^;\n]*;)+(?:[ \t]*\w+=[^\s;]*(?=\n|$))?[ \t]*|[^\n]*)(?:\n|$)?)+"
)


def without_client_headers(messages: Sequence[Any]) -> Sequence[Any]:
    """OpenAI's messages, checked or not, without such lines where the first one is the system's and begins with some.

    A message of nothing else goes too.
    """
    first = messages[0] if messages else None
    if not isinstance(first, Mapping) or first.get("role") not in ("system", "developer"):
        return messages
    content = first.get("content")
    if isinstance(content, str):
        left: Any = _without(content)
    elif isinstance(content, list) and content and isinstance(content[0], Mapping):
        text = content[0].get("text")
        said = _without(text) if isinstance(text, str) else text
        left = content if said == text else [*([{**content[0], "text": said}] if said else []), *content[1:]]
    else:
        return messages
    if left == content:
        return messages
    return [*([{**first, "content": left}] if left else []), *messages[1:]]


def _without(text: str) -> str:
    found = _HEADERS.match(text)
    return text if found is None else text[found.end() :]
