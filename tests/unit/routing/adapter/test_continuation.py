"""routing/adapter/continuation.py: one stream out of two."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exo_node.routing.adapter.continuation import Continuer, Delivered, rest_of, total_usage
from exo_node.routing.call import Batch
from exo_node.routing.upstream.transcript import Transcript
from exo_node.types import Usage
from tests.unit.routing.adapter_parts import STOP, call, candidate, text

HEAD = {"id": "first", "object": "chat.completion.chunk", "created": 7, "model": "m1"}


def batch(*events: dict[str, Any], ids: tuple[int, ...] = ()) -> Batch:
    return Batch(b"", [{"id": "second", "created": 8, **event} for event in events], ids)


def go_on(before: str, *pieces: str, exact: bool = False) -> str:
    """The text that reaches the client after `before`, read from the events' own JSON."""
    continuer = Continuer(Delivered(HEAD, before), exact=exact)
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


def test_exact_tokens_are_never_cut() -> None:
    """A ring that went on by ids repeats nothing: what looks like it is the answer."""
    assert go_on("The quick brown fox jumps", "The quick brown fox jumps", exact=True) == "The quick brown fox jumps"


def test_role_and_thoughts_are_dropped_other_fields_kept() -> None:
    """One role event per answer; the new backend's reasoning is none of the client's answer; tool calls are."""
    continuer = Continuer(Delivered(HEAD, "x"), exact=True)
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
