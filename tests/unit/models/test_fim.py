"""Which vocabularies fill in the middle, and what their prompts look like."""

from __future__ import annotations

import pytest

from exo_node.models.fim import FORMATS, fim_of

BEFORE, AFTER = (1, 2), (8, 9)


def vocabulary(*tokens: str) -> dict[str, int]:
    return {token: 100 + i for i, token in enumerate(tokens)}


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), [100, 1, 2, 101, 8, 9, 102]),
        (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), [100, 1, 2, 101, 8, 9, 102]),
        (("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"), [100, 1, 2, 101, 8, 9, 102]),
        (("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), [100, 1, 2, 101, 8, 9, 102]),
        (("[PREFIX]", "[SUFFIX]"), [101, 8, 9, 100, 1, 2]),
        (("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"), [100, 1, 2, 101, 8, 9, 102]),
    ],
    ids=["qwen", "starcoder", "codellama", "deepseek", "codestral", "codegeex"],
)
def test_the_published_prompts(tokens: tuple[str, ...], expected: list[int]) -> None:
    """Each family's marks in its own order; the marks themselves end an answer, for no text has them."""
    known = vocabulary(*tokens)
    fim = fim_of(known.get)
    assert fim is not None
    assert fim.ids(BEFORE, AFTER) == expected
    assert fim.ends == frozenset(known.values())


def test_no_marks_no_filling() -> None:
    """All of a format's marks must be there."""
    assert fim_of(vocabulary().get) is None
    assert fim_of(vocabulary("<|fim_prefix|>", "<|fim_suffix|>", "<fim_middle>").get) is None
    assert len({form.prefix for form in FORMATS}) == len(FORMATS)
