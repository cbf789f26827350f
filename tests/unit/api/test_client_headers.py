"""Lines of clients' accounting at the top of a system prompt."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.api.client_headers import without_client_headers

HEADER = "x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch=fa690;"
USER = {"role": "user", "content": HEADER}


def system(content: Any, role: str = "system") -> dict[str, Any]:
    return {"role": role, "content": content}


def part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (f"{HEADER}\nBe nice", "Be nice"),
        (f"{HEADER}Be nice;\nnow", "Be nice;\nnow"),  # blocks that were joined without a line's end
        (f"{HEADER[:-1]}\nBe nice", "Be nice"),
        (f"x-anthropic-other: a word\n{HEADER}\nBe nice", "Be nice"),
        ([part(HEADER), part("Be nice")], [part("Be nice")]),
        ([part(f"{HEADER}\nBe"), part("nice")], [part("Be"), part("nice")]),
    ],
)
def test_headers_go(content: Any, wanted: Any) -> None:
    """From the top of the first message, the system's, whether a string or parts; the user's own words stay."""
    for role in ("system", "developer"):
        assert without_client_headers([system(content, role), USER]) == [system(wanted, role), USER]


@pytest.mark.parametrize("content", [HEADER, [part(HEADER)]])
def test_a_message_of_nothing_else(content: Any) -> None:
    """It goes as a whole."""
    assert without_client_headers([system(content), USER]) == [USER]


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [system(f"Be nice\n{HEADER}"), USER],
        [system("The time is 12:00:01\nBe nice"), USER],
        [system(""), USER],
        [system(None), USER],
        [system([]), USER],
        [system(["x"]), USER],
        [system([{"type": "image_url"}]), USER],
        ["x"],
        [],
    ],
)
def test_all_else_stays(messages: Any) -> None:
    """Later lines, times, what is no text, and bodies that nobody has checked."""
    assert without_client_headers(messages) is messages
