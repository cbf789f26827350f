"""Masks over the bundled model's vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from exo_node.errors import InvalidRequest
from exo_node.models.tokenizer import Tokenizer
from exo_node.ring.constraint import LONGEST_TOKEN, Constraint, Vocabulary
from exo_node.types import Grammar

DEMO = Path(str(resources.files("exo_node"))) / "models" / "demo"
WIDTH = 1300  # logits are wider than the vocabulary of 1280
END = 2


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(DEMO)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer, WIDTH)


@pytest.fixture(scope="module")
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def begun(
    vocabulary: Vocabulary, executor: ThreadPoolExecutor, grammar: Grammar, ids: Sequence[int] = ()
) -> Constraint:
    constraint = Constraint(vocabulary.compile(grammar), vocabulary.size, grammar, executor)
    assert constraint.begin(ids)
    return constraint


def drawn(constraint: Constraint, seed: int, end: int = END, most: int = 400) -> list[int]:
    """Tokens drawn evenly from what is allowed, up to the end (which is left out)."""
    rng, ids = np.random.default_rng(seed), []
    while not constraint.ended:
        token = int(rng.choice(np.flatnonzero(constraint.allowed())))
        constraint.advance(token)
        if token != end:
            ids.append(token)
        assert len(ids) < most
    return ids


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "n": {"enum": [1, "zwei", None]}},
    "required": ["name", "n"],
    "additionalProperties": False,
}


def test_even_random_draws_make_the_schema(
    tokenizer: Tokenizer, vocabulary: Vocabulary, executor: ThreadPoolExecutor
) -> None:
    """The mask alone makes the answer right, in json.dumps's style; it ends by itself, without an end token."""
    for seed in range(20):
        ids = drawn(begun(vocabulary, executor, Grammar("json_schema", json.dumps(SCHEMA))), seed)
        text = tokenizer.decode(ids)
        answer = json.loads(text)
        assert list(answer) == ["name", "n"]
        assert answer["n"] in (1, "zwei", None)
        assert text.startswith('{"name": "')


def test_the_end_is_allowed_where_the_grammar_accepts(
    tokenizer: Tokenizer, vocabulary: Vocabulary, executor: ThreadPoolExecutor
) -> None:
    """Not before, and once nothing else may follow it need not be drawn."""
    constraint = begun(vocabulary, executor, Grammar("regex", "ab?"))
    allowed = constraint.allowed()
    assert allowed.shape == (WIDTH,)
    assert not allowed[END]
    constraint.advance(tokenizer.encode("a", add_special_tokens=False)[0])
    assert constraint.allowed()[END]
    assert not constraint.ended
    constraint.advance(END)
    assert constraint.ended


def test_an_answer_goes_on_from_any_token(
    tokenizer: Tokenizer, vocabulary: Vocabulary, executor: ThreadPoolExecutor
) -> None:
    """With its first tokens behind it the mask is the one that it was; tokens that do not match are told."""
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    whole = drawn(begun(vocabulary, executor, grammar), 3)
    ahead = begun(vocabulary, executor, grammar)
    for count, token in enumerate(whole):
        resumed = begun(vocabulary, executor, grammar, whole[:count])
        assert np.array_equal(resumed.allowed(), ahead.allowed())
        ahead.advance(token)
    assert begun(vocabulary, executor, grammar, whole).ended
    wrong = Constraint(vocabulary.compile(grammar), WIDTH, grammar, executor)
    assert not wrong.begin(tokenizer.encode("[1]", add_special_tokens=False))


def test_special_tokens_and_schemas_in_lark(
    tokenizer: Tokenizer, vocabulary: Vocabulary, executor: ThreadPoolExecutor
) -> None:
    """By name and by id; a text never matches one, and an unknown name is an error."""
    text = 'start: <|user|> "x" <[3]> %json {"type": "boolean"}'
    ids = drawn(begun(vocabulary, executor, Grammar("lark", text)), 1)
    assert [ids[0], ids[2]] == [4, 3]
    assert tokenizer.decode(ids) in ("xtrue", "xfalse")
    plain = begun(vocabulary, executor, Grammar("regex", r"<\|user\|>"))
    assert not plain.allowed()[4]
    with pytest.raises(InvalidRequest, match="nope"):
        vocabulary.compile(Grammar("lark", "start: <|nope|>"))


def test_several_end_tokens_are_all_ends(executor: ThreadPoolExecutor, tmp_path: Path) -> None:
    """Every one of generation_config.json is allowed where the grammar accepts, and only there."""
    config = {"eos_token_id": [2, 0]}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((DEMO / name).read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    constraint = begun(Vocabulary.load(tmp_path, 1280), executor, Grammar("regex", "a*"))
    assert constraint.allowed()[[0, 2]].all()


def test_a_sentencepiece_vocabulary_with_bytes(stories260k: Path, executor: ThreadPoolExecutor) -> None:
    """Byte tokens make what no piece has, and the text is the one that the detokenizer shows."""
    tokenizer = Tokenizer.load(stories260k)
    vocabulary = Vocabulary(tokenizer, 512)
    for seed in range(5):
        for pattern, texts in (
            ("ab c|\u96ea\u00e9", ("ab c", "\u96ea\u00e9")),
            ("(x|yy){2}", ("xx", "xyy", "yyx", "yyyy")),
        ):
            constraint = begun(vocabulary, executor, Grammar("regex", pattern))
            ids = [token for token in drawn(constraint, seed) if token not in tokenizer.eos_ids]
            assert tokenizer.decode(ids) in texts


def test_a_grammar_that_allows_nothing_is_the_callers(vocabulary: Vocabulary, executor: ThreadPoolExecutor) -> None:
    """A reference to itself compiles; it is refused before a token is drawn."""
    text = '{"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}'
    constraint = begun(vocabulary, executor, Grammar("json_schema", text, "guided_json"))
    with pytest.raises(InvalidRequest, match="guided_json: it allows no answer"):
        constraint.allowed()


def test_an_object_of_thousands_of_optional_properties(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer, vocabulary: Vocabulary, executor: ThreadPoolExecutor
) -> None:
    """It is held; where the library's limit is lower than a grammar needs, that is a 400 and no fault of the node."""
    properties = {f"p{number}": {"const": 1} for number in range(2500)}
    text = json.dumps({"type": "object", "properties": properties, "additionalProperties": False})
    grammar = Grammar("json_schema", text, "guided_json")
    whole = tokenizer.encode('{"p7": 1, "p2499": 1}', add_special_tokens=False)
    assert begun(vocabulary, executor, grammar, whole).ended
    monkeypatch.setattr("exo_node.ring.grammar_text.MAX_ITEMS", 2000)
    with pytest.raises(InvalidRequest, match=r"guided_json: .*max is 2000"):
        drawn(begun(vocabulary, executor, grammar), 1)


def test_tokens_of_a_thousand_bytes_do_no_harm(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    """The library panics at them: they are never allowed, and the others are."""
    long = "a" * (LONGEST_TOKEN + 400)
    bpe = tokenizers.models.WordLevel({"<end>": 0, "a": 1, "aa": 2, long: 3}, unk_token="a")
    made = tokenizers.Tokenizer(bpe)
    made.decoder = tokenizers.decoders.Fuse()
    made.add_special_tokens(["<end>"])
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": 0}')
    constraint = begun(Vocabulary.load(tmp_path, 4), executor, Grammar("regex", "a*"))
    assert constraint.allowed().tolist() == [True, True, True, False]


def test_a_panic_of_the_library_is_an_error(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    """It is no `Exception`, and must not end the runner."""
    monkeypatch.setattr("exo_node.ring.constraint.LONGEST_TOKEN", 10_000)
    kinds: Any = type(
        "Long",
        (),
        {"token_bytes": lambda self, token: b"a" * 2000, "__getattr__": lambda self, name: getattr(tokenizer, name)},
    )
    with pytest.raises(InvalidRequest, match="llguidance cannot read its vocabulary"):
        Vocabulary(kinds(), 1280)


def test_without_a_fast_tokenizer_it_says_so(tmp_path: Path) -> None:
    """A 400 that another backend may serve."""
    with pytest.raises(InvalidRequest, match=r"tokenizer\.json is missing") as caught:
        Vocabulary.load(tmp_path, 10)
    assert caught.value.code == "unsupported_parameter"
