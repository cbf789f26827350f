"""Streaming text: pieces are whole characters, their sum is the whole decode, time is linear."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.models.detokenizer import BytesDetokenizer, Detokenizer, NamingDetokenizer, WindowDetokenizer
from exo_node.models.pieces import piece_rule
from exo_node.models.tokenizer import Tokenizer
from tests.tiny_models import TEXT, write_byte_level, write_metaspace

WRITERS = {"byte_level": write_byte_level, "metaspace": write_metaspace}
IDS = st.lists(st.integers(0, 450), max_size=40)


@pytest.fixture(scope="module", params=list(WRITERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("detokenizer") / request.param)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


def pieces(stream: Detokenizer, ids: Sequence[int], sizes: Sequence[int] = (1,)) -> list[str]:
    out, at, step = [], 0, 0
    while at < len(ids):
        size = sizes[step % len(sizes)]
        out.append(stream.push(ids[at : at + size]))
        at, step = at + size, step + 1
    return [*out, stream.finish()]


@given(ids=IDS, sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_any_ids_in_any_portions(tokenizer: Tokenizer, ids: list[int], sizes: list[int]) -> None:
    """Any ids, valid text or not: the sum of the pieces does not depend on the portions, and each piece is valid."""
    parts = pieces(tokenizer.detokenizer(), ids, sizes)
    assert "".join(parts) == tokenizer.decode(ids)
    for part in parts:
        part.encode()


@given(text=st.text(max_size=50))
def test_no_piece_has_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    """Valid text is streamed without a single replacement character, and completely."""
    text = text.replace("\ufffd", "")
    ids = tokenizer.encode(text, add_special_tokens=False)
    parts = pieces(tokenizer.detokenizer(), ids)
    assert "\ufffd" not in "".join(parts)
    assert parts[-1] == ""


@given(ids=IDS)
def test_equals_the_librarys_whole_decode(folder: Path, tokenizer: Tokenizer, ids: list[int]) -> None:
    """The streamed text is the library's decode of the whole; for byte fallback wherever its bytes are valid UTF-8."""
    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    whole = library.decode(ids, skip_special_tokens=True)
    if folder.name == "byte_level" or "\ufffd" not in whole:
        assert tokenizer.decode(ids) == whole


def test_special_tokens_are_skipped(tokenizer: Tokenizer) -> None:
    """Special tokens leave no text, wherever they stand."""
    ids = tokenizer.encode("one two", add_special_tokens=False)
    assert tokenizer.decode([0, *ids, 1, 2]) == "one two"


def test_leading_space_belongs_to_the_text_when_it_continues_one(tmp_path: Path) -> None:
    """A text of its own drops SentencePiece's first space; what continues a prompt's words keeps it, after BOS not."""
    tokenizer = Tokenizer.load(write_metaspace(tmp_path / "t"))
    ids = tokenizer.encode("time", add_special_tokens=False)
    assert tokenizer.decode(ids) == "time"
    assert tokenizer.decode(ids, after=tokenizer.prompt_ids("a")) == " time"
    assert tokenizer.decode(ids, after=tokenizer.prompt_ids("")) == "time"


def test_metaspace_decoder() -> None:
    """Metaspace takes all spaces off its first token, and none where it never adds one."""
    for scheme, expected in (("always", "a b"), ("first", "a b"), ("never", "  a b")):
        rule = piece_rule({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True})
        assert rule is not None
        table = ["▁▁a", "▁b"]
        stream = BytesDetokenizer(lambda i, r=rule, t=table: r.to_bytes(t[i]), strip_token=rule.strip_token)  # type: ignore[misc]
        assert "".join(pieces(stream, [0, 1])) == expected


@pytest.mark.parametrize(
    "decoder",
    [None, {"type": "WordPiece"}, {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteLevel"}]},
     {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 1}]}],
)  # fmt: skip
def test_other_decoders_are_left_to_the_library(decoder: dict[str, object] | None) -> None:
    """A decoder of another shape has no rule: nothing is guessed."""
    assert piece_rule(decoder) is None


def test_window_equals_the_whole(folder: Path, tokenizer: Tokenizer) -> None:
    """The way for other decoders gives the same text, with a window that does not grow."""
    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return str(library.decode(ids, skip_special_tokens=True))

    ids = tokenizer.encode(TEXT * 5, add_special_tokens=False)
    assert "".join(pieces(WindowDetokenizer(decode), ids)) == tokenizer.decode(ids)
    assert longest <= 64


def test_many_tokens_in_linear_time(tokenizer: Tokenizer) -> None:
    """The work per token does not grow: each token's bytes are looked at once."""
    seen: list[int] = []

    def piece(token: int) -> bytes:
        seen.append(token)
        return tokenizer.token_bytes(token)

    ids = tokenizer.encode(TEXT * 20, add_special_tokens=False)
    assert "".join(pieces(BytesDetokenizer(piece), ids))
    assert len(seen) == len(ids)


def test_named_special_tokens() -> None:
    """Some special tokens show their names, and a character cut in half by one is not held back for what follows."""
    inner = {1: b"a", 2: "é".encode()[:1], 3: b"b"}
    stream = NamingDetokenizer({9: "<tool>"}, lambda: BytesDetokenizer(lambda token: inner[token]))
    assert stream.push([1, 9, 3]) == "a<tool>b"
    assert stream.push([2]) == ""
    assert stream.push([9]) == "\ufffd<tool>"
    assert stream.finish() == ""
