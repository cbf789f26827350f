"""The Responses API's events: their order, their numbers, and what they add up to."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from exo_node.api.dialects.responses_encoder import ResponsesEncoder
from exo_node.api.dialects.responses_items import sealed
from exo_node.api.dialects.responses_request import Given, decode
from exo_node.errors import ExoError, RateLimited
from tests.unit.api.dialects.responses_events import names, parsed, response

ID = "resp_" + "c" * 32
HEAD = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "served"}
USAGE = {
    "prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}  # fmt: skip
TEXT_EVENTS = [
    "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
    "output_text.done", "content_part.done", "output_item.done", "completed",
]  # fmt: skip


def encoder(**body: Any) -> ResponsesEncoder:
    asked = decode({"model": "m", "input": "Hi", **body}, Given(id=ID, created=1))
    return ResponsesEncoder(asked, lambda: 7.5)


def event(finish: str | None = None, logprobs: Any = None, **delta: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}]}


def call(index: int | None, arguments: str = "", **first: str) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": first.pop("name")} if "name" in first else {})}
    return {**({} if index is None else {"index": index}), **first, "function": function}


def stream(one: ResponsesEncoder, *events: dict[str, Any]) -> list[Any]:
    return parsed(b"".join(map(one.feed, events)) + one.end())


def test_a_text() -> None:
    """The whole sequence of a text, with its ids and indices, ends with the complete response."""
    one = encoder()
    events = stream(
        one,
        event(role="assistant", content=""),
        event(content="Hi"),
        event(content=' "you"\n'),
        event("stop"),
        {**HEAD, "choices": [], "usage": USAGE},
    )
    assert names(events) == TEXT_EVENTS
    assert {e.item_id for e in events if hasattr(e, "item_id")} == {f"msg_{'c' * 32}o0"}
    final = events[-1].response
    assert final.output_text == events[6].text == 'Hi "you"\n'
    assert (final.id, final.model, final.status, final.completed_at) == (ID, "served", "completed", 7)
    assert final.output[0].status == "completed"
    usage = final.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (5, 3, 8)
    assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (4, 2)
    assert (events[0].response.status, events[0].response.usage, events[0].response.output) == ("in_progress", None, [])
    assert response(one.response()) == final


def test_reasoning_refusal_and_calls() -> None:
    """Each kind is an item or a part of its own; parallel calls may come mixed, and stay open to the end."""
    one = encoder()
    events = stream(
        one,
        event(reasoning_content="Hm"),
        event(content="Wait"),
        event(refusal="No"),
        event(tool_calls=[call(0, id="c1", name="f"), call(1, id="c2", name="g")]),
        event(tool_calls=[call(1, "[1")]),
        event(tool_calls=[call(0, '{"a":'), call(1, "]")]),
        event("tool_calls", tool_calls=[call(0, "1}")]),
    )
    final = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    assert final.output[0].content[0].text == "Hm"
    assert [part.type for part in final.output[1].content] == ["output_text", "refusal"]
    assert [(c.call_id, c.name, c.arguments) for c in final.output[2:]] == [("c1", "f", '{"a":1}'), ("c2", "g", "[1]")]
    refused = next(e for e in events if e.type == "response.refusal.done")
    assert (refused.output_index, refused.content_index, refused.refusal) == (1, 1, "No")
    done = [e.output_index for e in events if e.type == "response.output_item.done"]
    assert done == [0, 1, 2, 3]


def test_summaries() -> None:
    """Reasoning goes into the summary where one is asked for, with the events that clients show."""
    one = encoder(reasoning={"summary": "auto"})
    events = stream(one, event(reasoning="Hm"), event("stop", content="Yes"))
    assert names(events)[3:7] == [
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]
    assert [part.text for part in events[-1].response.output[0].summary] == ["Hm"]


def test_sealed_reasoning() -> None:
    """What a client without stored responses sends back says the same as the reasoning beside it."""
    one = encoder(include=["reasoning.encrypted_content"])
    final = stream(one, event(reasoning_content="H"), event(reasoning_content="m"), event("stop", content="x"))[-1]
    assert final.response.output[0].encrypted_content == sealed("Hm")


def test_logprobs() -> None:
    """Log-probabilities are in the deltas, the end of the text, and the response, also of a token without a text."""
    top = {"token": "Hi", "logprob": -0.5, "bytes": None}
    tokens = [{**top, "top_logprobs": [top]}]
    events = stream(
        encoder(),
        event(content="Hi", logprobs={"content": tokens, "refusal": None}),
        event("stop", content="", logprobs={"content": tokens}),
    )
    assert names(events) == TEXT_EVENTS
    assert [e.logprobs[0].token for e in events[4:6]] == ["Hi", "Hi"]
    (part,) = events[-1].response.output[0].content
    assert [token.bytes for token in part.logprobs] == [list(b"Hi")] * 2
    assert part.logprobs[0].top_logprobs[0].logprob == -0.5


def test_incomplete() -> None:
    """A limit and a filter end the response and its open item as incomplete."""
    for finish, reason in (("length", "max_output_tokens"), ("content_filter", "content_filter")):
        final = stream(encoder(), event(finish, content="Hi"))[-1]
        assert final.type == "response.incomplete"
        assert (final.response.status, final.response.incomplete_details.reason) == ("incomplete", reason)
        assert (final.response.output[0].status, final.response.completed_at) == ("incomplete", None)
    cut = stream(encoder(), event("length", tool_calls=[call(0, '{"a', id="c", name="f")]))[-1].response
    assert (cut.output[0].status, cut.output[0].arguments) == ("incomplete", '{"a')


def test_odd_answers() -> None:
    """Nothing at all is an empty message; a call without arguments, number or id still is one that can be read."""
    assert names(stream(encoder(), event("stop"))) == [one for one in TEXT_EVENTS if not one.endswith("delta")]
    calls = [call(None, name="f", id="c1"), call(None, name="g", id="c2"), call(None, "[]")]
    final = stream(encoder(), *(event(tool_calls=[one]) for one in calls), event("tool_calls"))[-1].response
    assert [(c.call_id, c.arguments) for c in final.output] == [("c1", "{}"), ("c2", "[]")]
    nameless = stream(encoder(), event("tool_calls", tool_calls=[call(0, "{}", name="f")]))[-1].response
    assert nameless.output[0].call_id == f"call_{'c' * 32}o0"


def test_failures() -> None:
    """An error event, and the end of a response that had begun, as far as it came."""
    begun = encoder()
    events = parsed(begun.feed(event(content="Hi")) + begun.fail(RateLimited("busy", param="model")))
    assert names(events)[-2:] == ["error", "failed"]
    assert (events[-2].code, events[-2].message, events[-2].param) == ("rate_limit_exceeded", "busy", "model")
    failed = events[-1].response
    assert (failed.status, failed.error.code, failed.output_text) == ("failed", "rate_limit_exceeded", "Hi")
    assert failed.output[0].status == "incomplete"
    (only,) = parsed(encoder().fail(ExoError("broken")))
    assert (only.type, only.code) == ("error", "internal_error")


def test_queued() -> None:
    """In the background it is created as queued, and goes on as any other."""
    one = encoder(background=True)
    events = parsed(one.queue() + one.feed(event(content="Hi")) + one.feed(event("stop", content=" you")) + one.end())
    assert names(events) == ["created", "queued", *TEXT_EVENTS[1:]]
    assert [e.response.status for e in events[:3]] == ["queued", "queued", "in_progress"]
    one.broken("cancelled")
    assert response(one.response()).status == "cancelled"


def test_padding_hides_lengths() -> None:
    """Where it is asked for, the deltas of texts of different lengths are equally long."""
    one = encoder(stream=True, stream_options={"include_obfuscation": True})
    one.feed(event(content="start"))
    assert len({len(one.feed(event(content=text))) for text in ("a", "ab", "a longer one", "\n")}) == 1
    assert "obfuscation" not in str(encoder().feed(event(content="a")))


def test_the_requests_odd_values_are_repeated() -> None:
    """Half a surrogate pair and an integer of 100 bits in a tool's schema do not break the stream."""
    schema = {"type": "object", "description": "\ud800", "maximum": 2**100}
    events = stream(
        encoder(tools=[{"type": "function", "name": "f", "parameters": schema}]), event("stop", content="x")
    )
    assert events[-1].response.tools[0].parameters == schema


def pieces(text: str, cuts: Iterable[int]) -> list[str]:
    places = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 50), max_size=4)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
CALLS = st.lists(st.tuples(st.sampled_from(["f", "g"]), TEXT.filter(bool)), max_size=3)


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, TEXT, CALLS, st.sampled_from(["stop", "length"]), CUTS, st.booleans())
def test_any_chunking_gives_the_same_response(
    thought: str, text: str, refusal: str, calls: Any, finish: str, cuts: list[int], summary: bool
) -> None:
    """However an answer is cut, its response is the whole answer's, and all deltas add up to what is done."""
    options: Any = {"reasoning": {"summary": "auto"}} if summary else {}
    made = [{"id": f"c{i}", **call(i, args, name=name)} for i, (name, args) in enumerate(calls)]
    message = {"role": "assistant", "content": text, "reasoning_content": thought, "refusal": refusal or None,
               "tool_calls": [{**one, "type": "function"} for one in made]}  # fmt: skip
    whole = encoder(**options).whole(
        {**HEAD, "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": USAGE}
    )
    said = {"reasoning_content": thought, "content": text, "refusal": refusal}
    parts = [event(**{field: piece}) for field in said for piece in pieces(said[field], cuts)]
    for i, (name, args) in enumerate(calls):
        parts += [event(tool_calls=[call(i, id=f"c{i}", name=name)])]
        parts += [event(tool_calls=[call(i, piece)]) for piece in pieces(args, cuts)]
    one = encoder(**options)
    events = stream(one, *parts, event(finish), {**HEAD, "choices": [], "usage": USAGE})
    assert one.response() == whole
    assert events[-1].response == response(whole)
    grown: dict[Any, str] = defaultdict(str)
    for e in events:
        place = tuple(getattr(e, name, None) for name in ("output_index", "content_index", "summary_index"))
        kind = e.type.rpartition(".")[0]
        if e.type.endswith(".delta"):
            grown[kind, place] += e.delta
        elif e.type.endswith(".done") and kind.endswith(("text", "refusal", "arguments")):
            done = next(getattr(e, name) for name in ("text", "refusal", "arguments") if hasattr(e, name))
            assert grown.pop((kind, place), "") == done
    assert not grown


def test_the_tier_that_it_had() -> None:
    """What the backend says of it wins over what was asked for; one that says nothing did as asked."""
    assert stream(encoder(service_tier="priority"), {**event("stop"), "service_tier": "default"})[
        -1
    ].response.service_tier == ("default")
    for asked, told in (("flex", "flex"), ("auto", "default"), (None, "default")):
        assert stream(encoder(service_tier=asked), event("stop"))[-1].response.service_tier == told


def test_odd_shapes() -> None:
    """Parts of content (Mistral's, its thoughts beside the text) and arguments that are an object (TGI's)."""
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Hi"}]
    odd = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": {"city": "Oslo"}}}
    events = stream(encoder(), event(content=parts), event("tool_calls", tool_calls=[odd]))
    said, called = events[-1].response.output
    assert (said.content[0].text, called.arguments) == ("Hi", '{"city":"Oslo"}')
