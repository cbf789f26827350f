"""routing/upstream/transcript.py: what a stream said, read as it passes."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.routing.call import Batch, UpstreamError
from exo_node.routing.upstream.transcript import Transcript, characters_of, choices, read_usage
from exo_node.types import Usage
from tests.unit.routing.adapter_parts import ROLE, STOP, call, text, usage


def read(*events: dict[str, Any], **fields: Any) -> Transcript:
    transcript = Transcript(call(**fields))
    for event in events:
        transcript.take(Batch(b"", [event]))
    return transcript


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


@pytest.mark.parametrize(
    ("event", "content"),
    [
        (ROLE, False),
        (delta(content=""), False),
        (delta(role="assistant", content=None, refusal=None), False),
        ({"choices": []}, False),
        (usage(1, 1), False),
        (delta(content="x"), True),
        (delta(reasoning_content="x"), True),
        (delta(tool_calls=[{"index": 0}]), True),
        (delta(refusal="no"), True),
        (STOP, True),
        ({"choices": [{"index": 0, "text": "x", "finish_reason": None}]}, True),
    ],
)
def test_the_commit_point(event: dict[str, Any], content: bool) -> None:
    """Only what a client would notice commits the stream to its backend."""
    assert read(event).content == content


def test_text_ends_usage_and_extras() -> None:
    """All that is needed to continue, to bill and to say whether the answer is complete."""
    found = read(ROLE, text("One"), text(" two"), delta(reasoning_content="hm"), STOP, usage(5, 2))
    assert (found.text, found.pieces, found.characters, found.complete) == ("One two", 2, 7, True)
    assert (found.usage, found.extras, found.special) == (Usage(5, 2), {"reasoning_content"}, True)
    assert not read(text("One")).complete


def test_what_is_paid_for_beside_the_text() -> None:
    """Thoughts and tool calls, streamed and whole; the text alone is what others go on from."""
    call_ = {"index": 0, "function": {"name": "f", "arguments": '{"a": 1}'}}
    thought = delta(reasoning_content="h", reasoning="h")
    found = read(ROLE, thought, delta(reasoning="mm"), delta(tool_calls=[call_]), delta(tool_calls=5), text("One"))
    assert (found.characters, found.others, found.tokens) == (3, 3 + 9, 1)
    message = {"content": "One", "reasoning_content": "hmm", "reasoning": "hmm", "tool_calls": [call_]}
    assert characters_of({"choices": [{"message": message}, {"text": "Two!"}]}) == 15 + 4
    assert characters_of({"choices": [{"message": {"content": None, "tool_calls": [None]}}]}) == 0


@pytest.mark.parametrize("odd", [delta(content=5), {"choices": ["x"]}])
def test_nothing_was_said_by_a_batch_with_an_odd_event(odd: dict[str, Any]) -> None:
    """Such a batch does not go out, so what stands before the odd event in it is still to be said, and its end too."""
    found = read(ROLE, text("One"))
    with pytest.raises(UpstreamError) as caught:
        found.take(Batch(b"", [text(" two"), STOP, odd]))
    assert caught.value.cause == "malformed"
    assert (found.text, found.pieces, found.characters, found.complete) == ("One", 1, 3, False)


def test_an_empty_reason_is_none() -> None:
    """Some providers send finish_reason "" with every event; a stream that then breaks off is not complete."""
    assert not read({"choices": [{"index": 0, "delta": {"content": "One"}, "finish_reason": ""}]}).complete


@pytest.mark.parametrize(
    "event",
    [
        {"choices": 5}, {"choices": "abc"}, {"choices": [None]}, {"choices": [{"delta": "abc"}]},
        {"choices": [{"delta": {"content": 5}}]},
        {"choices": [{"index": {"a": 1}, "text": "x", "finish_reason": "stop"}]},
    ],
)  # fmt: skip
def test_an_odd_shape_is_the_backends_fault(event: dict[str, Any]) -> None:
    """What cannot be read is malformed, so that another backend is asked."""
    with pytest.raises(UpstreamError) as caught:
        read(event)
    assert caught.value.cause == "malformed"


def test_content_in_parts() -> None:
    """Mistral's lists of parts pass, but are no text to continue from."""
    found = read(delta(content=[{"type": "thinking", "thinking": []}]), text("One"))
    assert (found.text, found.extras) == ("One", {"parts of content"})


def test_every_choice_needs_its_end() -> None:
    """n choices, and prompts times n of a completion."""
    two = {"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}
    assert not read(STOP, body={"n": 2}).complete
    assert read(STOP, two, body={"n": 2}).complete
    assert choices(call(kind="completion", body={"prompt": ["a", "b"], "n": 3})) == 6
    assert choices(call(kind="completion", body={"prompt": [1, 2]})) == 1


def test_usage_of_all_shapes() -> None:
    """OpenAI's two spellings; anything else is no usage, nor is one of nothing, which no answer has."""
    assert read_usage({"prompt_tokens": 3, "total_tokens": 3}) == Usage(3, 0)
    assert read_usage({"input_tokens": 3, "output_tokens": 4}) == Usage(3, 4)
    assert read_usage({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}) == Usage(3, 0, 2)
    assert read_usage({}) is None
    assert read_usage({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}) is None
    assert read_usage({"prompt_tokens": -3, "completion_tokens": 2.5}) is None
    assert read_usage("x") is None
