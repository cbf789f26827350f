"""Parsing of OpenAI's requests: what is read, and what is refused with which field named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exo_node.api.openai_request import MAX_SEQUENCES, ParsedRequest, parse_chat, parse_completion
from exo_node.config import Settings
from exo_node.errors import InvalidRequest
from exo_node.types import Grammar

HELLO = [{"role": "user", "content": "hi"}]
SETTINGS = Settings(home=Path("unused"))


def chat(settings: Settings = SETTINGS, **fields: Any) -> ParsedRequest:
    return parse_chat({"model": "demo", "messages": HELLO, **fields}, "id", settings)


def completion(settings: Settings = SETTINGS, **fields: Any) -> ParsedRequest:
    return parse_completion({"model": "demo", "prompt": "hi", **fields}, "id", settings)


BOTH: list[tuple[str, Any]] = [
    ("model", 5),
    ("model", ""),
    ("model", None),
    ("temperature", "1"),
    ("temperature", True),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", 10**400),
    ("top_p", -0.1),
    ("top_p", 1.01),
    ("top_p", [1]),
    ("top_k", -1),
    ("top_k", 1.5),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("frequency_penalty", 2.5),
    ("presence_penalty", -2.5),
    ("presence_penalty", "0"),
    ("repetition_penalty", 0),
    ("repetition_penalty", -1),
    ("logit_bias", [1]),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"²": 1}),
    ("logit_bias", {"5": 101}),
    ("logit_bias", {"5": "1"}),
    ("logit_bias", {"99999999999": 1}),
    ("n", 0),
    ("n", 17),
    ("n", 1.0),
    ("n", True),
    ("stop", 5),
    ("stop", ""),
    ("stop", ["a", ""]),
    ("stop", ["a"] * 65),
    ("stop", "\ud800"),
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("max_tokens", "5"),
    ("max_tokens", 5.5),
    ("seed", 1.5),
    ("seed", 2**63),
    ("seed", "1"),
    ("stream", "true"),
    ("stream", 1),
    ("stream_options", {"include_usage": True}),
    ("user", 5),
    ("metadata", "x"),
    ("response_format", []),
    ("store", 1),
    ("grammar", 5),
]
CHAT: list[tuple[str, Any]] = [
    ("messages", None),
    ("messages", []),
    ("messages", "hi"),
    ("logprobs", 1),
    ("top_logprobs", 2),
    ("max_completion_tokens", 0),
    ("tool_choice", "required"),
    ("tool_choice", "required"),
    ("modalities", ["text", "audio"]),
    ("audio", {"voice": "x"}),
    ("prediction", "content"),
    ("reasoning_effort", "much"),
    ("chat_template_kwargs", [1]),
    ("enable_thinking", "yes"),
    ("web_search_options", {}),
    ("audio", {"voice": "alloy"}),
    ("prompt", "Hello"),
    ("echo", True),
    ("best_of", 2),
    ("suffix", "end"),
]
COMPLETION: list[tuple[str, Any]] = [
    ("prompt", None),
    ("prompt", 5),
    ("prompt", []),
    ("prompt", [1, "a"]),
    ("prompt", [-1]),
    ("prompt", "\udfff"),
    ("logprobs", 6),
    ("logprobs", True),
    ("logprobs", -1),
    ("suffix", 5),
    ("best_of", 21),
    ("echo", "yes"),
    ("max_tokens", 0),
    ("messages", [{"role": "user", "content": "Hello"}]),
    ("top_logprobs", 2),
    ("max_completion_tokens", 0),
]


@pytest.mark.parametrize(("field", "value"), BOTH + CHAT, ids=lambda value: repr(value)[:30])
def test_chat_refuses(field: str, value: Any) -> None:
    """A chat field that is wrong or not done raises the 400 that names it."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**{field: value})
    assert caught.value.status == 400
    assert caught.value.param == field
    assert field in caught.value.message


@pytest.mark.parametrize(("field", "value"), BOTH + COMPLETION, ids=lambda value: repr(value)[:30])
def test_completion_refuses(field: str, value: Any) -> None:
    """A completion field that is wrong or not done raises the 400 that names it."""
    with pytest.raises(InvalidRequest) as caught:
        completion(**{field: value})
    assert caught.value.status == 400
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 1}, "top_logprobs"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"stream": True, "stream_options": 5}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ],
)
def test_chat_refuses_combinations(fields: dict[str, Any], param: str) -> None:
    """Fields that contradict each other are refused."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": [[1], "a"]}, "prompt[1]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": ["a"] * (MAX_SEQUENCES + 1)}, "prompt"),
        ({"prompt": [1, 2], "suffix": "end"}, "suffix"),
        ({"echo": True, "suffix": "end"}, "suffix"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"stream": True, "best_of": 2}, "best_of"),
        ({"prompt": ["a"] * 20, "best_of": 20}, "prompt"),
    ],
)
def test_completion_refuses_combinations(fields: dict[str, Any], param: str) -> None:
    """Prompts of mixed kinds, too many of them, and echoes that cannot be given are refused."""
    with pytest.raises(InvalidRequest) as caught:
        completion(**fields)
    assert caught.value.param == param


def test_every_sampling_field_arrives() -> None:
    """Each honoured field reaches the backend's request, and `sampling_given` names what the caller set."""
    given: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "frequency_penalty": 1,
        "presence_penalty": -1.0,
        "repetition_penalty": 1.1,
    }
    parsed = chat(
        **given,
        logit_bias={"7": -100},
        seed=9,
        stop=["a", "b", "c", "d", "e"],
        max_tokens=5,
        logprobs=True,
        top_logprobs=3,
    )
    (request,) = parsed.requests
    sampling = request.sampling
    assert {name: getattr(sampling, name) for name in given} == given
    assert sampling.logit_bias == {7: -100.0}
    assert request.sampling_given == {*given, "logit_bias"}
    assert (request.seed, request.stop, request.max_tokens, sampling.top_logprobs) == (9, tuple("abcde"), 5, 3)
    assert request.messages == ({"role": "user", "content": "hi"},)
    assert request.timeout_s == 900


def test_an_answer_without_an_end() -> None:
    """ignore_eos goes with every choice, and with nothing that ends an answer by itself."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "ignore_eos": True}
    assert [one.ignore_eos for one in parse_chat({**body, "n": 2}, "id", SETTINGS).requests] == [True, True]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for more in ({"tools": [tool]}, {"response_format": {"type": "json_object"}}, {"ignore_eos": 1}):
        with pytest.raises(InvalidRequest) as caught:
            parse_chat({**body, **more}, "id", SETTINGS)
        assert caught.value.param == "ignore_eos"


def test_neutral_defaults() -> None:
    """A bare request is neutral: nothing given, no seed, the backend's limit of tokens."""
    (request,) = chat().requests
    assert request.sampling_given == frozenset()
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_logprobs) == (1.0, 1.0, None)
    assert (request.seed, request.stop, request.max_tokens) == (None, (), None)


def test_no_share_is_the_likeliest_token() -> None:
    """`top_p` 0 is OpenAI's lowest: greedy, whatever the temperature."""
    (request,) = chat(top_p=0, temperature=1.5).requests
    assert (request.sampling.temperature, request.sampling.top_p) == (0.0, 1.0)
    assert request.sampling_given == {"temperature", "top_p"}


def test_a_form_of_the_answer_goes_with_every_choice() -> None:
    """The grammar is each choice's own, in chats and completions."""
    wanted = [Grammar("json_schema", "{}", "guided_json")] * 2
    assert [request.grammar for request in chat(guided_json={}, n=2).requests] == wanted
    assert [request.grammar for request in completion(prompt=["a", "b"], guided_json={}).requests] == wanted


def test_null_is_absent() -> None:
    """A field that is null reads like one that is not there, also one that is not supported."""
    names = [name for name, _ in BOTH + CHAT if name not in ("model", "messages")]
    nulls: dict[str, Any] = dict.fromkeys(names)
    assert chat(**nulls).requests == chat().requests


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"response_format": {"type": "text"}, "modalities": ["text"], "store": False, "functions": []},
        {"user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "prompt_cache_key": "k"},
        {"something_new": {"x": 1}},
        {"stream_options": None},
    ],
)
def test_harmless_fields_are_accepted(fields: dict[str, Any]) -> None:
    """What clients send without meaning anything by it does not disturb."""
    assert chat(**fields).requests == chat().requests


def test_either_limit() -> None:
    """max_completion_tokens is the new name of max_tokens; --max-generate-tokens caps both."""
    assert chat(max_completion_tokens=6).requests[0].max_tokens == 6
    assert chat(max_tokens=6, max_completion_tokens=6).requests[0].max_tokens == 6
    small = Settings(home=Path("unused"), max_generate_tokens=4)
    assert chat(small, max_tokens=6).requests[0].max_tokens == 4
    assert completion(small).requests[0].max_tokens == 4
    assert completion(max_completion_tokens=6).requests[0].max_tokens == 6
    assert completion().requests[0].max_tokens == 16  # OpenAI's default there


def test_default_model() -> None:
    """A request that names no model gets the node's default; one that does keeps its own."""
    settings = Settings(home=Path("unused"), default_model="demo")
    parsed = parse_chat({"messages": HELLO}, "id", settings)
    assert (parsed.model, parsed.requests[0].model) == ("demo", "demo")
    assert chat(settings, model="other").model == "other"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi", ["hi"]),
        ("", [""]),
        ([1, 2], [(1, 2)]),
        (["a", "b"], ["a", "b"]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
    ],
)
def test_prompts(prompt: Any, expected: list[Any]) -> None:
    """A prompt is a string or token ids, or an array of either."""
    assert [request.prompt for request in completion(prompt=prompt).requests] == expected


def test_choices() -> None:
    """n choices of a prompt lie side by side, have ids of their own, and seeds that count up from the request's."""
    parsed = completion(prompt=["a", "b"], n=2, seed=5, echo=True)
    assert [request.prompt for request in parsed.requests] == ["a", "a", "b", "b"]
    assert [request.seed for request in parsed.requests] == [5, 6, 5, 6]
    assert len({request.request_id for request in parsed.requests}) == 4
    assert all(one.echo and one.prompt_logprobs is None for one in parsed.requests)
    assert [request.seed for request in chat(seed=-1, n=2).requests] == [2**64 - 1, 0]


def test_prompts_given_back_and_filled_in() -> None:
    """echo with logprobs asks for the prompt's own, max_tokens 0 for nothing else; a suffix goes with its prompt."""
    (scored,) = completion(echo=True, logprobs=3, max_tokens=0).requests
    assert (scored.echo, scored.prompt_logprobs, scored.sampling.top_logprobs, scored.max_tokens) == (True, 3, 3, 0)
    (plain,) = completion(logprobs=3, suffix="end").requests
    assert (plain.echo, plain.prompt_logprobs, plain.suffix, plain.max_tokens) == (False, None, "end", 16)


def test_best_of_makes_more_than_it_shows() -> None:
    """best_of sequences are made for each prompt, with what is needed to choose; best_of = n is nothing special."""
    parsed = completion(prompt=["a", "b"], n=2, best_of=3, seed=5)
    assert [one.prompt for one in parsed.requests] == ["a"] * 3 + ["b"] * 3
    assert [one.seed for one in parsed.requests] == [5, 6, 7] * 2
    assert (parsed.n, parsed.best, parsed.top_logprobs) == (3, 2, None)
    assert {one.sampling.top_logprobs for one in parsed.requests} == {0}
    same = completion(n=2, best_of=2, stream=True)
    assert (same.n, same.best, same.requests[0].sampling.top_logprobs) == (2, None, None)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"$schema": "x", "properties": {}}}}


def test_tools_and_template_options() -> None:
    """Tools and what the template is to be told travel with every choice; the older form is remembered."""
    parsed = chat(tools=[TOOL], n=2, reasoning_effort="low", chat_template_kwargs={"k": 1}, enable_thinking=True)
    assert not parsed.functions
    for one in parsed.requests:
        assert one.tool_use is not None
        assert one.tool_use.tools[0]["function"] == {"name": "f", "parameters": {"type": "object", "properties": {}}}
        assert one.template_options == {"k": 1, "enable_thinking": True, "reasoning_effort": "low"}
    assert chat(functions=[{"name": "f"}]).functions


def test_fields_that_only_speed_up_or_are_wishes_pass() -> None:
    """OpenAI's fields that change no answer are taken."""
    chat(prediction={"type": "content", "content": "x"}, verbosity="low", store=True, metadata={"a": "b"}, user="u",
         service_tier="flex", safety_identifier="s", prompt_cache_key="k", tools=None, tool_choice=None)  # fmt: skip
