"""The index of beginnings."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from exo_node.ring.prefix_cache import INDEX_BLOCK, PrefixCache, common_length

TEXT = list(range(100, 180))


def cache(**sequences: list[int]) -> PrefixCache:
    """Finished sequences 1, 2, ... with these tokens, all of scope ""."""
    made = PrefixCache()
    for number, tokens in enumerate(sequences.values(), 1):
        made.hold(number, "", 7)
        made.extend(number, tokens, len(tokens), len(tokens))
        made.finish(number)
    return made


def found(made: PrefixCache, tokens: list[int], scope: str = "") -> list[tuple[int, int]]:
    return [(count, held.sequence) for count, held in made.find(scope, tokens)]


def test_the_longest_beginning_is_found_to_the_token() -> None:
    """Matches are found by blocks and counted exactly; the last token of a prompt is never one of them."""
    made = cache(short=TEXT[:20], long=TEXT[:50])
    assert found(made, [*TEXT[:43], 1, 2]) == [(43, 2), (20, 1)]
    assert found(made, TEXT[:50])[0][0] == 49


def test_less_than_a_block_is_nothing() -> None:
    """Too little to be worth a copy."""
    assert found(cache(one=TEXT), [*TEXT[: INDEX_BLOCK - 1], 1, 2, 3]) == []


def test_scopes_do_not_meet() -> None:
    """Another caller's sequence is never found."""
    assert found(cache(one=TEXT), TEXT, "other") == []


def test_a_running_sequence_is_found_too_after_a_finished_one() -> None:
    """Of equal matches the finished one comes first: it may be taken over without a copy."""
    made = cache(one=TEXT[:40])
    made.hold(2, "", 9)
    made.extend(2, TEXT, 40, 0)
    assert found(made, TEXT) == [(40, 1), (40, 2)]


def test_the_longest_unused_goes_first() -> None:
    """Use is finding or copying; a running sequence never goes."""
    made = cache(a=TEXT[:20], b=TEXT[20:50])
    made.touch(1)
    assert made.oldest() == 2
    assert made.oldest(spared=2) == 1
    made.copy(1, 3, 5, 18)
    made.drop(1)
    assert made.oldest(spared=2) is None


def test_what_was_cut_or_dropped_is_not_found() -> None:
    """A sequence that goes on at a shorter length is known by that alone; a dropped one not at all."""
    made = cache(a=TEXT[:64])
    made.copy(1, 2, 5, 20)
    made.drop(1)
    assert found(made, TEXT)[0] == (20, 2)
    made.extend(2, [*TEXT[:20], *range(40)], 60, 0)
    assert found(made, TEXT)[0][0] == 20
    made.drop(2)
    assert found(made, TEXT) == []
    assert not made._blocks


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_it_finds_what_a_search_of_all_finds(seed: int) -> None:
    """The index against looking at every sequence, for texts that share beginnings."""
    numbers = random.Random(seed)
    texts = [
        [*TEXT[: numbers.randrange(60)], *(numbers.randrange(4) for _ in range(numbers.randrange(30)))]
        for _ in range(8)
    ]
    made = cache(**{str(number): text for number, text in enumerate(texts)})
    asked = [*numbers.choice(texts), 1, 2]
    lengths = [common_length(text, asked, len(asked) - 1) for text in texts]
    best = sorted((length for length in lengths if length >= INDEX_BLOCK), reverse=True)
    assert [length for length, _ in found(made, asked)] == best
    assert all(lengths[sequence - 1] == length for length, sequence in found(made, asked))


def test_a_copy_is_known_as_its_source_is() -> None:
    """Up to the copied length, whatever becomes of the source."""
    made = cache(one=TEXT[:70])
    made.copy(1, 2, 7, 50)
    copied = made.held(2)
    assert (copied.tokens, copied.chunked, copied.user, copied.scope) == (TEXT[:50], 50, 7, "")
    made.drop(1)
    assert found(made, TEXT) == [(50, 2)]
    made.extend(2, TEXT, 70, 50)
    assert found(made, TEXT) == [(70, 2)]
    made.drop(2)
    assert not made._blocks
