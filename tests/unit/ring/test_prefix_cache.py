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


def test_the_longest_beginning_is_found_to_the_token() -> None:
    """Matches are found by blocks and counted exactly; the last token of a prompt is never one of them."""
    made = cache(short=TEXT[:20], long=TEXT[:50])
    found = made.find("", [*TEXT[:43], 1, 2])
    assert [(count, held.sequence) for count, held in found] == [(43, 2)]
    assert made.find("", TEXT[:50])[0][0] == 49


def test_less_than_a_block_is_nothing() -> None:
    """Too little to be worth a copy."""
    assert cache(one=TEXT).find("", [*TEXT[: INDEX_BLOCK - 1], 1, 2, 3]) == []


def test_scopes_do_not_meet() -> None:
    """Another caller's sequence is never found."""
    assert cache(one=TEXT).find("other", TEXT) == []


def test_a_running_sequence_is_found_too_after_a_finished_one() -> None:
    """Of equal matches the finished one comes first: it may be taken over without a copy."""
    made = cache(one=TEXT[:40])
    made.hold(2, "", 9)
    made.extend(2, TEXT, 40, 0)
    assert [held.sequence for _, held in made.find("", TEXT)] == [1, 2]


def test_the_longest_unused_goes_first() -> None:
    """Use is finding or taking; a running sequence never goes."""
    made = cache(a=TEXT[:20], b=TEXT[20:50])
    made.touch(1)
    assert made.oldest() == 2
    assert made.oldest(spared=2) == 1
    made.take(1, 5, 18)
    assert made.oldest(spared=2) is None


def test_what_was_cut_or_dropped_is_not_found() -> None:
    """A sequence that was taken over at a shorter length is known by that alone; a dropped one not at all."""
    made = cache(a=TEXT[:64])
    made.take(1, 5, 20)
    assert made.find("", TEXT)[0][0] == 20
    made.extend(1, [*TEXT[:20], *range(40)], 60, 0)
    assert made.find("", TEXT)[0][0] == 20
    made.drop(1)
    assert made.find("", TEXT) == []
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
    best = max(common_length(text, asked, len(asked) - 1) for text in texts)
    found = made.find("", asked)
    assert (found[0][0] if found else 0) == (best if best >= INDEX_BLOCK else 0)
