"""What is said of an answer: each fault that a client could see is told, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.chaos.answers import Answer, Reference, compared, question, read, reference
from tests.chaos.cells import MODELS, TOKENS

USAGE = {"prompt_tokens": 5, "completion_tokens": TOKENS}
WANTED = Reference("one two three", 5, (4, 8, 13), (2.0, 3.0, 0.0001))


def event(text: str | None = None, finish: str | None = None, **fields: Any) -> bytes:
    choices = [] if text is None else [{"text": text, "finish_reason": finish}]
    return json.dumps({"id": "x", "choices": choices, **fields}).encode()


def streamed(*data: bytes) -> Answer:
    return read([(float(at), one) for at, one in enumerate(data)])


WHOLE = (event("one "), event("two three"), event("", "length"), event(usage=USAGE, exo={"continued": True}), b"[DONE]")


def test_a_whole_stream_is_read() -> None:
    """Text, end, usage and the times of what had text."""
    answer = streamed(*WHOLE)
    assert (answer.text, answer.finish, answer.usage, answer.continued) == ("one two three", "length", USAGE, True)
    assert (answer.stamps, answer.faults) == ([0.0, 1.0], [])
    assert compared(answer, WANTED, 4, exact=True) == ""


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (WHOLE[:-1], "no [DONE]"),
        ((*WHOLE, event("more")), "after [DONE]"),
        ((*WHOLE[:3], event("more"), *WHOLE[3:]), "after its end"),
        ((*WHOLE[:3], *WHOLE[2:]), "two ends"),
        ((*WHOLE[:4], WHOLE[3], WHOLE[4]), "after the usage"),
        ((*WHOLE[:2], b'{"error": {"message": "gone"}}', b"[DONE]"), "error: gone"),
        ((*WHOLE[:2], b"{", *WHOLE[2:]), "no JSON"),
        ((WHOLE[0].replace(b'"x"', b'"y"'), *WHOLE[1:]), "2 ids"),
        ((*WHOLE[:2], event("", "stop"), *WHOLE[3:]), "'stop' instead of 'length'"),
        ((*WHOLE[:3], event(usage={**USAGE, "completion_tokens": 63}), b"[DONE]"), "(5, 63) tokens"),
        ((*WHOLE[:3], b"[DONE]"), "(None, None) tokens"),
        ((event("one "), event("one "), *WHOLE[1:]), "differs from character 4"),
        ((event("one "), *WHOLE[2:]), "differs from character 4"),
    ],
)
def test_what_a_client_could_see_is_told(data: tuple[bytes, ...], fault: str) -> None:
    """Cut, doubled, changed or disordered streams are faults, in the plain mode too."""
    for exact in (True, False):
        assert fault in compared(streamed(*data), WANTED, 4, exact)


def test_text_may_part_at_a_near_tie_only_and_only_later() -> None:
    """Plain mode: never in what was delivered, never where one token was clearly ahead; reproducible: never."""
    parted = streamed(event("one two "), event("trees"), *WHOLE[2:])
    assert compared(parted, WANTED, 8, exact=False) == "tie"
    assert "9 " in compared(parted, WANTED, 12, exact=False)
    assert "differs" in compared(parted, WANTED, 8, exact=True)
    early = streamed(event("one "), event("ten"), *WHOLE[2:])
    assert "3.0000 ahead" in compared(early, WANTED, 4, exact=False)


def test_a_reference_has_the_margins_of_its_tokens() -> None:
    """Chats and completions alike: the chosen token against the best other one, by the character."""
    usage = {"prompt_tokens": 5, "completion_tokens": TOKENS}
    told = {
        "tokens": ["ab", "c"],
        "token_logprobs": [-0.1, -2.0],
        "top_logprobs": [{"ab": -0.1, "x": -3.1}, {"y": -2.5}],
    }
    plain = {"choices": [{"text": "abc", "finish_reason": "length", "logprobs": told}], "usage": usage}
    rows = [
        {"token": "ab", "logprob": -0.1, "top_logprobs": [{"logprob": -0.1}, {"logprob": -3.1}]},
        {"token": "c", "logprob": -2.0, "top_logprobs": [{"logprob": -2.5}]},
    ]
    message = {"message": {"content": "abc"}, "finish_reason": "length", "logprobs": {"content": rows}}
    for answer in (plain, {"choices": [message], "usage": usage}):
        found = reference(answer)
        assert (found.text, found.ends) == ("abc", [2, 3])
        assert [found.margin_at(0), found.margin_at(2)] == [pytest.approx(3.0), pytest.approx(0.5)]
    with pytest.raises(AssertionError, match="full length"):
        reference({"choices": [{**message, "finish_reason": "stop"}], "usage": usage})


@pytest.mark.parametrize("model", MODELS)
def test_questions_are_the_same_at_every_call(model: str) -> None:
    """And differ from each other, so that no answer can stand for another."""
    for long in (True, False):
        asked = [question(model, number, long=long, sampled=False) for number in range(8)]
        assert asked == [question(model, number, long=long, sampled=False) for number in range(8)]
        assert len({json.dumps(one.body) for one in asked}) == 8
