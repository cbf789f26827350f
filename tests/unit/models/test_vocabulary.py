"""Which models may guess for which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import CheckpointError, InvalidRequest
from exo_node.models.vocabulary import PADDING, check_same_vocabulary

WORDS = {"a": 0, "b": 1, "c": 2}


def folder(where: Path, vocab: Any, added: list[tuple[int, str]] | None = None) -> Path:
    where.mkdir()
    special = [{"id": number, "content": token} for number, token in added or ()]
    (where / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": special}))
    return where


@pytest.mark.parametrize(
    ("vocab", "added"),
    [
        (WORDS, None),
        ({"c": 2, "b": 1, "a": 0}, None),
        ({"a": 0, "b": 1}, [(2, "c")]),
        ([["a", -1.5], ["b", -2.0], ["c", -3.0]], None),
        (WORDS, [(3, "<end>"), (4, "<more>")]),
    ],
)
def test_the_same_numbers_mean_the_same(tmp_path: Path, vocab: Any, added: list[tuple[int, str]] | None) -> None:
    """Whatever the order and the kind of table; one may have a few tokens more at the end."""
    one, other = folder(tmp_path / "one", WORDS), folder(tmp_path / "other", vocab, added)
    check_same_vocabulary("m", one, "d", other)
    check_same_vocabulary("d", other, "m", one)


@pytest.mark.parametrize(
    ("vocab", "said"),
    [
        ({"a": 0, "c": 1, "b": 2}, "token 1 is 'b' and 'c'"),
        ({"a": 0, "b": 1, "d": 3}, "token 2 is 'c' and unused"),
        (WORDS | {f"x{i}": 3 + i for i in range(PADDING + 1)}, f"3 and {PADDING + 4} tokens"),
    ],
)
def test_other_vocabularies_are_refused(tmp_path: Path, vocab: dict[str, int], said: str) -> None:
    """The first token that differs is told, or the numbers of tokens."""
    one, other = folder(tmp_path / "one", WORDS), folder(tmp_path / "other", vocab)
    with pytest.raises(InvalidRequest, match=said) as caught:
        check_same_vocabulary("m", one, "d", other)
    assert (caught.value.param, caught.value.status) == ("draft_model", 400)


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"model": {"vocab": [1]}}', b'{"model": {}}'])
def test_unreadable_tokenizers_are_named(tmp_path: Path, content: bytes | None) -> None:
    """Missing or not what a tokenizer.json is."""
    one = folder(tmp_path / "one", WORDS)
    (tmp_path / "other").mkdir()
    if content is not None:
        (tmp_path / "other" / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"other/tokenizer\.json"):
        check_same_vocabulary("m", one, "d", tmp_path / "other")
