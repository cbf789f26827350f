"""routing/adapter/continuation.py: one stream out of two."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exo_node.routing.adapter.continuation import (
    MAX_OVERLAP,
    MIN_OVERLAP,
    Continuer,
    Delivered,
    may_continue,
    refusal,
    rest_of,
    total_usage,
)
from exo_node.routing.call import Batch
from exo_node.routing.plan import Candidate
from exo_node.routing.upstream.transcript import Transcript
from exo_node.types import Usage
from tests.unit.routing.adapter_parts import STOP, call, candidate, text

HEAD = {"id": "first", "object": "chat.completion.chunk", "created": 7, "model": "m1"}


def batch(*events: dict[str, Any], ids: tuple[int, ...] = ()) -> Batch:
    return Batch(b"", [{"id": "second", "created": 8, **event} for event in events], ids)


OTHER, CLAUDE, RING = candidate("b"), candidate("c", provider="anthropic"), candidate("ring:a")


def go_on(before: str, *pieces: str, by: Candidate = OTHER) -> str:
    """The text that reaches the client after `before`, read from the events' own JSON."""
    continuer = Continuer(Delivered(HEAD, before), by)
    raw = b"".join(continuer.rewrite(batch(text(piece))) for piece in pieces) + continuer.rewrite(batch(STOP))
    events = [json.loads(block[6:]) for block in raw.split(b"\n\n")[:-1]]
    assert all((event["id"], event["created"], event["model"]) == ("first", 7, "m1") for event in events)
    assert continuer.reason == "stop"
    said = "".join(event["choices"][0]["delta"]["content"] for event in events)
    assert said == continuer.text
    return said


@pytest.mark.parametrize(
    ("before", "pieces", "said"),
    [
        ("One two", (" three", " four"), " three four"),
        ("The quick brown fox jumps", ("brown fox jumps", " over"), " over"),  # says the end again
        ("| a | b |\n|-------|-------|-------", ("|-------|-------|", "\n"), "|-------|-------|\n"),  # a ruler goes on
        ("The quick brown fox jumps", ("The quick", " brown fox", " jumps over"), " over"),  # starts anew
        ("So la la ding dong, la la ding dong,", (" la la ding", " dong, end"), " la la ding dong, end"),  # a refrain
        ("Monday Tuesday Friday Monday Tuesday", (" Friday Monday", " Tuesday."), " Friday Monday Tuesday."),
        ("ha ha", (" ha", " ha"), " ha ha"),  # a repetition that is meant
        ("Hello ", (" world",), "world"),  # the blank was taken off for the backend
        ("Hello ", ("world",), "world"),
        ("a b c", ("a",), "a"),
        ("Das ist", ("",), ""),
    ],
)
def test_no_text_is_said_twice(before: str, pieces: tuple[str, ...], said: str) -> None:
    """Repetitions of a dozen characters at the seam are cut; short ones may be meant."""
    assert go_on(before, *pieces) == said
    assert go_on(before, *"".join(pieces)) == said, "however the text is cut into events"


@pytest.mark.parametrize("by", [RING, CLAUDE])
def test_who_only_goes_on_is_never_cut(by: Candidate) -> None:
    """Where the partial answer is part of the prompt, what looks like a repetition is the answer."""
    assert go_on("The quick brown fox jumps", "The quick brown fox jumps", by=by) == "The quick brown fox jumps"


def test_the_stop_string_is_told_at_the_end() -> None:
    """As in an answer that one backend has made: Anthropic's clients are told which one it was."""
    continuer = Continuer(Delivered(HEAD, "One"), RING)
    told = {"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "four"}
    assert continuer.rewrite(batch(text(" two"), {"choices": [told]}))
    assert json.loads(continuer.end(None)[6:])["choices"] == [{**told, "logprobs": None}]


TEXTS = st.text("ab .\n", max_size=60)  # full of repetitions
WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=40, unique=True).map(" ".join)


@given(TEXTS, TEXTS, st.sampled_from([RING, CLAUDE]), st.integers(1, 9))
def test_a_true_continuation_is_whole(before: str, after: str, by: Candidate, size: int) -> None:
    """A ring is told the text as it stands, a provider without its last blanks: nothing is lost or said twice."""
    told = before if by.kind == "ring" else before.rstrip()
    new = (before + after)[len(told) :]
    assert before + go_on(before, *(new[i : i + size] for i in range(0, len(new), size)), by=by) == before + after


@given(WORDS, st.integers(0, 40), st.integers(0, 40), st.integers(1, 9))
def test_repetitions_are_cut(said: str, broke: int, words: int, size: int) -> None:
    """A backend that starts anew, or says the last words again, is cut to what is new, wherever the answer broke."""
    before, base = said[:broke], said[:broke].rstrip()
    starts = [i for i in range(len(base)) if i == 0 or base[i - 1] == " "]
    again = starts[max(0, len(starts) - 1 - words)] if starts else 0
    assume(len(base) - again >= MIN_OVERLAP or (again == 0 and len(base) >= MIN_OVERLAP // 2))
    old = base[again:]
    assume(not any(old[i:] == old[:-i] for i in range(1, len(old) // 2 + 1)))  # "b ab a" may well go on as it is
    new = said[again:]
    assert before + go_on(before, *(new[i : i + size] for i in range(0, len(new), size))) == said


def test_a_long_answer_from_its_start() -> None:
    """Also one longer than the longest repetition that is looked for at the end."""
    said = " ".join(str(number) for number in range(MAX_OVERLAP))
    assert go_on(said, *(said[i : i + 7] for i in range(0, len(said), 7)), " end") == " end"


@pytest.mark.parametrize(
    ("before", "new"),
    [
        ("it was unforgettable and so regrettable and so", "table and so on"),  # no word begins there
        ("Sie sagte es wieder und immer wieder", "wieder und"),  # too little
    ],
)
def test_chance_is_no_repetition(before: str, new: str) -> None:
    """Who repeats begins with a word."""
    assert go_on(before, new) == new


@pytest.mark.parametrize(
    ("there", "answering", "goes_on"),
    [("m1", "m2", False), ("m2", "m2", True), ("m1", "m1", True), ("m2", "m1", False)],
)
def test_same_model_is_the_answering_one(there: str, answering: str, goes_on: bool) -> None:
    """After a fallback to another model, only that one's backends may go on, the asked one's no more."""
    asked = candidate("b", model_id=there, equivalent=there != "m1")
    assert may_continue(asked, call(), "same-model", "Some text", answering) == goes_on
    assert may_continue(asked, call(), "any", "Some text", answering)


@pytest.mark.parametrize(("prompt", "goes_on"), [("One", True), (["One"], True), ([1, 2], False), ([[1, 2]], False)])
def test_a_completion_goes_on_where_its_prompt_is_a_text(prompt: Any, goes_on: bool) -> None:
    """The answer so far cannot be put behind token ids: a provider would begin anew, and the client get all twice."""
    asked = call(kind="completion", body={"prompt": prompt})
    assert may_continue(OTHER, asked, "any", "Some text", "m1") == goes_on
    assert may_continue(RING, asked, "any", "Some text", "m1"), "which has the tokens"
    assert may_continue(OTHER, asked, "any", "", "m1"), "from which nothing can come twice"


def test_whose_answer_it_is() -> None:
    """The model of the backend that was heard."""
    delivered = Delivered()
    delivered.add(candidate("c", model_id="m2"), Transcript(call()), "One", 1)
    assert delivered.model_id == "m2"


def test_role_and_thoughts_are_dropped_other_fields_kept() -> None:
    """One role event per answer; the new backend's reasoning is none of the client's answer; tool calls are."""
    continuer = Continuer(Delivered(HEAD, "x"), RING)
    made = continuer.rewrite(
        batch(
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}, "finish_reason": None}]},
        )
    )
    (block,) = made.split(b"\n\n")[:-1]
    assert json.loads(block[6:])["choices"][0]["delta"] == {"tool_calls": [{"index": 0}]}


def test_ids_hold_while_one_rings_model_makes_the_answer() -> None:
    """Exact ids go to a ring of the same model only; another backend's text ends them."""
    delivered = Delivered()
    transcript = Transcript(call())
    transcript.take(batch(text("One"), ids=(4, 5)))
    ring = candidate("ring:a")
    delivered.add(ring, transcript, "One", 1)
    assert (delivered.partial(ring).token_ids, delivered.tokens, delivered.exact) == ((4, 5), 2, True)
    assert delivered.partial(candidate("ring:b")).token_ids == ()
    assert delivered.partial(candidate("c")).token_ids == ()
    other = Transcript(call())
    other.take(batch(text(" two ")))
    delivered.add(candidate("c"), other, " two ", 2)
    assert (delivered.partial(ring).token_ids, delivered.partial(ring).text) == ((), "One two ")
    assert delivered.partial(candidate("c")).text == "One two", "some providers refuse blanks at a prefix's end"
    assert (delivered.tokens, delivered.exact) == (4, False)


def test_max_tokens_shrink_by_what_was_delivered() -> None:
    """Both spellings; nothing left of an exact count ends the answer, an estimate leaves one token."""
    asked = call(max_tokens=10, body={"max_completion_tokens": 10})
    left = rest_of(asked, Delivered(tokens=4))
    assert left is not None
    assert (left.max_tokens, left.body["max_completion_tokens"]) == (6, 6)
    assert rest_of(asked, Delivered(tokens=10)) is None
    guessed = rest_of(asked, Delivered(tokens=12, exact=False))
    assert guessed is not None
    assert guessed.max_tokens == 1
    assert rest_of(call(), Delivered(tokens=4)) is not None


def test_usage_adds_up() -> None:
    """Prompt once, completion of all parts; exact only where rings counted it."""
    delivered = Delivered(tokens=5)
    assert total_usage(delivered, Usage(10, 3), Usage(0, 0), candidate("ring:a")) == (Usage(10, 8), False)
    assert total_usage(delivered, Usage(15, 3), Usage(0, 0), candidate("b")) == (Usage(10, 8), True)
    assert total_usage(delivered, None, Usage(15, 2), candidate("b")) == (Usage(10, 7), True)


def test_calls_go_on_where_their_tokens_can_be_read() -> None:
    """A call begun by a ring is continued by a ring of that model only; begun elsewhere, by nobody."""
    other, provider = candidate("ring:b", kind="ring", model="m2"), candidate("b")
    calling = Transcript(call())
    calling.take(batch({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]}, ids=(5, 6)))
    delivered = Delivered()
    delivered.add(RING, calling, "", 2)
    assert refusal(call(), delivered, calling) == ""
    assert delivered.only == RING.model
    assert may_continue(RING, call(), "any", "", "m1", delivered.only)
    assert not may_continue(other, call(), "any", "", "m1", delivered.only)
    assert not may_continue(provider, call(), "any", "", "m1", delivered.only)
    elsewhere = Delivered()
    elsewhere.add(provider, calling, "", 2)
    assert refusal(call(), elsewhere, calling) == "it holds tool_calls"


def test_thoughts_go_on_with_their_tokens() -> None:
    """A ring that goes on from the tokens thinks on; one that begins anew thinks anew, which nobody wants twice."""
    thinking = Transcript(call())
    thinking.take(batch({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}, ids=(5,)))
    delivered = Delivered()
    delivered.add(RING, thinking, "", 1)
    more = batch({"choices": [{"index": 0, "delta": {"reasoning_content": ", so"}, "finish_reason": None}]})
    assert b", so" in Continuer(delivered, RING).rewrite(more)
    assert Continuer(delivered, OTHER).rewrite(more) == b""
