"""Ids and text: equal to transformers for both kinds of tokenizer, prompts, EOS, bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.errors import CheckpointError, InvalidRequest
from exo_node.models.tokenizer import Tokenizer
from tests.tiny_models import TEXT, with_marks, write_byte_level, write_metaspace

WRITERS = {"byte_level": write_byte_level, "metaspace": write_metaspace}


@pytest.fixture(scope="module", params=list(WRITERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("tokenizer") / request.param)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(folder)


SAMPLES = ["a", " a", "Hello, world", TEXT, "e\u0301 \u1112\u1161\u11ab", "  two  spaces ", "\n\n",
           "<s>x</s>[INST] y <|im_start|>", "\u2581under", "\x00\x7f", "😀"]  # fmt: skip


@pytest.mark.parametrize("text", SAMPLES)
def test_encodes_and_decodes_as_transformers(tokenizer: Tokenizer, theirs: Any, text: str) -> None:
    """Same ids with and without special tokens, and the same text back."""
    for special in (True, False):
        ids = tokenizer.encode(text, add_special_tokens=special)
        assert ids == theirs.encode(text, add_special_tokens=special)
        expected = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(ids) == expected
    assert tokenizer.prompt_ids(text) == tokenizer.encode(text, add_special_tokens=True)


@given(text=st.text(max_size=60))
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    """Any text without special tokens is the same after a round trip (NFC apart) and has at least min_tokens tokens."""
    import unicodedata

    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.min_tokens(text) <= len(ids)
    if "[" in text or "<" in text or "\u2581" in text:
        return
    back = tokenizer.decode(ids)
    assert unicodedata.normalize("NFC", back) == unicodedata.normalize("NFC", text)


def test_empty_prompt_is_bos(tokenizer: Tokenizer) -> None:
    """An empty completions prompt starts from BOS alone."""
    assert tokenizer.prompt_ids("") == [tokenizer.bos_id]


def test_published_tokenizer(stories260k: Path) -> None:
    """stories260K: BOS, both EOS ids of generation_config.json, and its published ids and words."""
    tokenizer = Tokenizer.load(stories260k)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.vocab_size) == (1, frozenset({1, 2}), 512)
    assert tokenizer.prompt_ids("") == [1]
    ids = [403, 407, 261, 378, 432, 383, 286, 261, 376]
    assert tokenizer.decode(ids) == "Once upon a time, there was a little"
    assert tokenizer.prompt_ids("Once upon a time, there was a little") == [1, *ids]


def test_no_bos_and_an_empty_prompt(tmp_path: Path) -> None:
    """A model without BOS cannot start from nothing: 400 that names the prompt."""
    folder = write_byte_level(tmp_path / "t")
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**state, "post_processor": None}))
    (folder / "tokenizer_config.json").write_text("{}")
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.bos_id is None
    with pytest.raises(InvalidRequest, match="BOS"):
        tokenizer.prompt_ids("")
    assert tokenizer.prompt_ids("a") == tokenizer.encode("a", add_special_tokens=False)
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<|bos|>", "add_bos_token": true}')
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.prompt_ids("a")[0] == tokenizer.bos_id


@pytest.mark.parametrize("ids", [(), (-1,), (10**6,), (True,), ("a",), (2**70,)])
def test_bad_ids_are_refused(tokenizer: Tokenizer, ids: tuple[int, ...]) -> None:
    """Token ids outside the vocabulary, of another type, or none at all: 400."""
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.prompt_ids(ids)
    assert caught.value.param == "prompt"
    assert tokenizer.prompt_ids((0, 5)) == [0, 5]


def test_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    """Half a UTF-16 pair, which JSON can carry, is a 400 and not a crash."""
    with pytest.raises(InvalidRequest, match="surrogate"):
        tokenizer.prompt_ids("a\ud800")
    assert tokenizer.min_tokens("a\ud800") >= 0


def test_eos_comes_from_all_files(tmp_path: Path) -> None:
    """generation_config.json wins over config.json; the tokenizer's own EOS is always one."""
    folder = write_metaspace(tmp_path / "t")
    assert Tokenizer.load(folder).eos_ids == {2}
    (folder / "config.json").write_text('{"text_config": {"eos_token_id": 5}}')
    assert Tokenizer.load(folder).eos_ids == {2, 5}
    (folder / "generation_config.json").write_text('{"eos_token_id": [6, 3]}')
    assert Tokenizer.load(folder).eos_ids == {2, 3, 6}
    (folder / "generation_config.json").write_text('{"eos_token_id": "x"}')
    with pytest.raises(CheckpointError, match="eos_token_id"):
        Tokenizer.load(folder)


def test_token_text_and_bytes(tmp_path: Path) -> None:
    """A token's own bytes: its leading space, one byte of a character, a special token's name, nothing for no token."""
    metaspace = Tokenizer.load(write_metaspace(tmp_path / "m"))
    (space_a,) = metaspace.encode("a", add_special_tokens=False)
    assert (metaspace.token_text(space_a), metaspace.token_bytes(space_a)) == (" a", b" a")
    assert metaspace.token_bytes(1) == b"<s>"
    assert metaspace.token_bytes(10**6) == b""
    ids = metaspace.encode("\U0001fae0", add_special_tokens=False)[1:]
    assert [metaspace.token_bytes(i) for i in ids] == [bytes([b]) for b in "\U0001fae0".encode()]
    assert metaspace.token_text(ids[0]) == "\ufffd"
    level = Tokenizer.load(write_byte_level(tmp_path / "b"))
    text = "über 🫠 there"
    assert b"".join(map(level.token_bytes, level.encode(text, add_special_tokens=False))) == text.encode()


@pytest.mark.parametrize("data", ["", "{", '{"version": "1.0"}', "[]"])
def test_broken_tokenizer(tmp_path: Path, data: str) -> None:
    """A tokenizer.json that is missing or broken is a one-line CheckpointError."""
    with pytest.raises(CheckpointError, match="missing"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(data)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in caught.value.message


def test_import_is_cheap() -> None:
    """What a daemon imports of this room brings neither tokenizers nor jinja2, numpy or huggingface_hub."""
    code = (
        "import sys, exo_node.models.tokenizer, exo_node.models.catalog, exo_node.models.download,"
        " exo_node.models.weights, exo_node.models.digest, exo_node.models.spec;"
        "print({'tokenizers', 'jinja2', 'numpy', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_prompts_with_a_suffix(folder: Path, tmp_path: Path) -> None:
    """BOS, then the texts between their marks; the suffix has no space of its own before it."""
    marks = ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", "\u2581<EOT>")
    tokenizer = Tokenizer.load(with_marks(folder, tmp_path / "fim", *marks))
    ids, ends = tokenizer.infill_ids("def step(", "return x")
    pre, suf, mid, eot = (tokenizer.encode(mark, add_special_tokens=False)[-1] for mark in marks)
    assert ids[:2] == [tokenizer.bos_id, pre]
    assert ids[-1] == mid
    at = ids.index(suf)
    assert ids[2:at] == tokenizer.encode("def step(", add_special_tokens=False)
    assert b"".join(map(tokenizer.token_bytes, ids[at + 1 : -1])) == b"return x"
    assert ends == {pre, suf, mid, eot}


def test_a_vocabulary_without_marks_takes_no_suffix(tokenizer: Tokenizer) -> None:
    """The field is named, as one that another backend may be able to do."""
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.infill_ids("a", "b")
    assert (caught.value.param, caught.value.code) == ("suffix", "unsupported_parameter")


def test_ids_of_texts_that_are_only_read(tokenizer: Tokenizer) -> None:
    """As the post-processor frames a text; ids are taken as they are, within the vocabulary."""
    assert tokenizer.input_ids("Hello", "input") == tokenizer.encode("Hello", add_special_tokens=True)
    assert tokenizer.input_ids((5, 6), "input") == [5, 6]
    with pytest.raises(InvalidRequest, match=r"input\[1\] holds 999999") as caught:
        tokenizer.input_ids((5, 999999), "input[1]")
    assert caught.value.param == "input[1]"
