"""The list of models for Anthropic's clients."""

from __future__ import annotations

import pytest

from exo_node.api.dialects.anthropic_models import anthropic_model, models_page
from exo_node.errors import InvalidRequest

ROWS = [{"id": name, "object": "model", "created": 0, "context_length": 8} for name in "abcde"]


def test_a_row_has_both_sets_of_fields() -> None:
    """What Anthropic's SDK requires, beside OpenAI's; our list of capabilities would be an object there."""
    row = {"id": "m", "object": "model", "created": 1_700_000_000, "name": "n", "capabilities": ["tools"]}
    assert anthropic_model(row) == {
        "id": "m", "object": "model", "created": 1_700_000_000, "name": "n", "type": "model", "display_name": "n",
        "created_at": "2023-11-14T22:13:20Z", "lifecycle": "active", "max_input_tokens": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ({}, "abcde", False),
        ({"limit": "2"}, "ab", True),
        ({"limit": "2", "after_id": "b"}, "cd", True),
        ({"limit": "2", "after_id": "c"}, "de", False),
        ({"limit": "2", "before_id": "d"}, "bc", True),
        ({"limit": "9", "before_id": "d"}, "abc", False),
        ({"after_id": "e"}, "", False),
    ],
)
def test_pages(query: dict[str, str], ids: str, more: bool) -> None:
    """All at once, or page by page in both directions."""
    page = models_page(ROWS, query)
    assert ("".join(row["id"] for row in page["data"]), page["has_more"]) == (ids, more)
    assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "many"}, {"after_id": "z"}])
def test_wrong_questions_are_refused(query: dict[str, str]) -> None:
    """By the parameter's name."""
    with pytest.raises(InvalidRequest) as caught:
        models_page(ROWS, query)
    assert caught.value.param == next(iter(query))
