"""Which family a template is taken for."""

from __future__ import annotations

import pytest

from exo_node.models.toolformats.detect import thought_marks, tool_format
from tests.chat_templates import MAGISTRAL, QWEN, QWEN3, R1, TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_family_of_a_template(name: str) -> None:
    """Each family's own template is known by its syntax; others are of no family."""
    template, family = TEMPLATES[name]
    found = tool_format(template)
    assert ("" if found is None else found.name) == family


def test_the_marks_of_thoughts() -> None:
    """As the template shows them."""
    assert [None if one is None else one.open for one in map(thought_marks, (QWEN3, R1, MAGISTRAL, QWEN))] == [
        "<think>", "<think>", "[THINK]", None
    ]  # fmt: skip
