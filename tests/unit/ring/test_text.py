"""ring/text.py: what text is certain enough to send."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from exo_node.ring.text import TextAssembler
from exo_node.types import TokenLogprob


class Letters:
    """A detokenizer whose token n is the nth of the given pieces."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces

    def push(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[token] for token in ids)

    def finish(self) -> str:
        return ""


def run(pieces: Sequence[str], stop: Sequence[str]) -> tuple[list[str], list[int], bool]:
    assembler = TextAssembler(Letters(pieces), stop)
    texts: list[str] = []
    ids: list[int] = []
    for token in range(len(pieces)):
        piece = assembler.push(token, TokenLogprob(pieces[token], token, -1.0, b""))
        texts.append(piece.text)
        ids += piece.token_ids
        assert [entry.token_id for entry in piece.logprobs] == list(piece.token_ids)
        if piece.stopped:
            return texts, ids, True
    last = assembler.finish()
    return [*texts, last.text], [*ids, *last.token_ids], last.stopped


def test_stop_string_across_token_borders_cuts_right_before_it() -> None:
    """A stop string that begins in one token and ends in another is never shown, not even in part."""
    texts, ids, stopped = run(["Hello wo", "rl", "d and more"], ["world"])
    assert "".join(texts) == "Hello "
    assert stopped
    assert ids == []  # the first token's text goes past the cut


def test_no_stop_sends_at_once() -> None:
    """Without stop strings nothing is held back."""
    assert run(["a", "b"], [])[0] == ["a", "b", ""]


def test_open_suffix_is_sent_when_it_turns_out_harmless() -> None:
    """Text that might have become a stop string is sent as soon as it cannot any more."""
    assert run(["a<", "b", "<|"], ["<|end"])[0] == ["a", "<b", "", "<|"]


def test_tokens_know_where_they_stand() -> None:
    """Behind what the client has before them, and behind held text; a mark has a name and no text."""
    assembler = TextAssembler(Letters(["", "a<", "b"]), ["<|end"], start=3)
    pieces = [assembler.push(token, TokenLogprob("<|mark|>", token, -1.0, b"")) for token in range(3)]
    assert [entry.offset for piece in pieces for entry in piece.logprobs] == [3, 3, 5]


@given(st.lists(st.text("ab", max_size=3), max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_same_text_as_cutting_the_whole(pieces: list[str], stop: list[str]) -> None:
    """Whatever the token borders, the text is the whole text cut at the first stop string that completes.

    A stop string counts when its last character has arrived; among those complete, the earliest begin wins.
    """
    texts, ids, stopped = run(pieces, stop)
    whole = ""
    expected, expect_stop = "".join(pieces), False
    for piece in pieces:
        whole += piece
        found = [whole.find(one) for one in stop if one in whole]
        if found:
            expected, expect_stop = whole[: min(found)], True
            break
    assert "".join(texts) == expected
    assert stopped == expect_stop
    assert ids == list(range(len(ids)))


def test_the_stop_string_that_was_met_is_told() -> None:
    """The first one in the text; "" where none was met."""
    assembler = TextAssembler(Letters(["a<b", ">c"]), ["c", "b>", "<x"])
    assert assembler.push(0, None).stopped_by == ""
    assert assembler.push(1, None).stopped_by == "b>"
