"""The cluster key: derived values, join code, phrases."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.cluster.keys import ALPHABET, ClusterKey, phrase_bits, propose_phrase
from exo_node.errors import ConfigurationError

keys = st.binary(min_size=32, max_size=32).map(ClusterKey)


@given(keys)
def test_join_code_round_trip(key: ClusterKey) -> None:
    """A join code gives its key back, however it is typed."""
    code = key.join_code
    assert key == ClusterKey.from_join_code(code)
    assert key == ClusterKey.from_join_code(f"  {code.lower().replace('-', ' ').replace('0', 'o').replace('1', 'l')}\n")


@given(keys, st.integers(0, 55), st.sampled_from(ALPHABET))
def test_join_code_typo(key: ClusterKey, position: int, character: str) -> None:
    """One wrong character is noticed."""
    plain = key.join_code.replace("-", "")
    if plain[position] != character:
        with pytest.raises(ConfigurationError, match="mistyped"):
            ClusterKey.from_join_code(plain[:position] + character + plain[position + 1 :])


@pytest.mark.parametrize(("code", "words"), [("", "0 characters"), ("ABCD-EFGH", "8 characters"), ("AB!D", "group 1")])
def test_join_code_malformed(code: str, words: str) -> None:
    """A code that cannot be one is refused with the reason."""
    with pytest.raises(ConfigurationError, match=words):
        ClusterKey.from_join_code(code)


def test_subkeys_are_distinct() -> None:
    """Keys differ in every subkey; the secret shows in neither text nor repr."""
    a, b = ClusterKey(b"a" * 32), ClusterKey(b"b" * 32)
    assert len({a.subkey(b"x"), a.subkey(b"y"), b.subkey(b"x")}) == 3
    assert "aaaa" not in repr(a)


def test_subkey_is_hkdf() -> None:
    """`subkey` is HKDF-SHA256 without salt (checked against the cryptography package), also past one block."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = ClusterKey(bytes(range(32)))
    for length in (16, 32, 48, 100):
        expected = HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=b"purpose").derive(key.secret)
        assert expected == key.subkey(b"purpose", length)


def test_phrase() -> None:
    """The same phrase gives the same key on every machine, spacing and Unicode form aside."""
    phrase = propose_phrase()
    assert ClusterKey.from_phrase(phrase) == ClusterKey.from_phrase(f" {phrase.replace(' ', '   ')} ")


@pytest.mark.parametrize(
    "phrase",
    ["", "password", "correct horse battery staple", "1234567890" * 4, "a" * 100, "Hunter2!" * 5],
)
def test_guessable_phrase(phrase: str) -> None:
    """A guessable phrase is refused, and the message holds one that is not."""
    with pytest.raises(ConfigurationError, match="can be guessed") as caught:
        ClusterKey.from_phrase(phrase)
    proposal = caught.value.message.split('"')[1]
    assert phrase_bits(proposal) >= 80


def test_no_word_is_proposed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in two thousand phrases of eight draws has a word twice, and would be refused as guessable itself."""
    letters = itertools.chain("bababbabab", itertools.cycle("dafagahajabekelemeneri"))
    monkeypatch.setattr("exo_node.cluster.keys.secrets.choice", lambda among: next(letters))
    words = propose_phrase().split()
    assert len(set(words)) == len(words) == 8
    assert phrase_bits(" ".join(words)) >= 80


def test_random_strings_are_good_enough() -> None:
    """Machine-made secrets pass: hex of 192 bits, eight random words, a long mixed password."""
    assert phrase_bits("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c") >= 80
    assert phrase_bits("xK7-pq2L_9vRt4#mZ8wQ1s!N6b") >= 80
    assert all(phrase_bits(propose_phrase()) >= 80 for _ in range(50))
