"""JSON bodies -> calls: what is taken out, what stays, and what routing is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_node.api.calls import Context, guess_kind, make_call
from exo_node.api.schemas.openai import REQUESTS
from exo_node.errors import InvalidRequest
from exo_node.routing.call import Call, Caller, CallKind

HI = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> Call:
    body = {"model": "m", "messages": HI, **fields}
    return make_call("chat", body, Context(id="c", deadline=9.0, default_model="fallback", key_id="k1"))


def test_ours_is_taken_out_of_the_body() -> None:
    """`exo` and a provider's name become wishes; everything else stays as it came, unknown fields too."""
    wishes = {"strategy": "cost", "max_cost": 0.5, "fallbacks": ["a"], "continuation": "any", "cache_ttl": 5}
    call = chat(provider="groq", exo=wishes, tools=[{"type": "function"}], reasoning_effort="low", safe_prompt=True)
    assert call.wishes.provider == "groq"
    assert (call.wishes.strategy, call.wishes.max_cost, call.wishes.fallbacks) == ("cost", 0.5, ("a",))
    assert (call.wishes.continuation, call.wishes.cache_ttl_s, call.wishes.no_cache) == ("any", 5.0, False)
    assert set(call.body) == {"model", "messages", "tools", "reasoning_effort", "safe_prompt"}
    assert chat().wishes.fallbacks is None
    assert chat(exo={"fallbacks": []}).wishes.fallbacks == ()  # none, said so


def test_a_providers_preferences_are_not_a_name() -> None:
    """OpenRouter's `provider` object belongs to the body."""
    call = chat(provider={"order": ["x"]})
    assert (call.wishes.provider, call.body["provider"]) == (None, {"order": ["x"]})


def test_extra_body_goes_into_the_body() -> None:
    """What SDKs merge on the client's side is merged here for those that send it."""
    call = chat(extra_body={"top_k": 3, "exo": {"strategy": "cost"}})
    assert call.body["top_k"] == 3
    assert "extra_body" not in call.body
    assert call.wishes.strategy == "cost"


def test_who_asks_and_for_what() -> None:
    """The key's id and the user; a request without a model gets the default, in the body too."""
    assert chat(user="ann").caller == Caller("k1", "ann")
    call = chat(model=None)
    assert (call.model, call.body["model"]) == ("fallback", "fallback")


def test_needs() -> None:
    """Tools, images, JSON schemas, sound and log-probabilities are what a backend must be able to do."""
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]
    assert chat(messages=image).needs == {"vision"}
    assert chat(tools=[{"type": "function"}], logprobs=True).needs == {"tools", "logprobs"}
    assert chat(tools=[]).needs == frozenset()
    assert chat(response_format={"type": "json_schema", "json_schema": {}}).needs == {"json_schema"}
    assert chat(modalities=["text", "audio"]).needs == {"audio"}


def test_estimates() -> None:
    """A token is four characters; an answer's limit counts for each of n."""
    call = chat(messages=[{"role": "user", "content": "x" * 400}], max_completion_tokens=10, n=3)
    assert (call.prompt_tokens, call.max_tokens) == (101, 30)
    assert make_call("completion", {"prompt": [1, 2, 3], "model": "m"}, Context(id="", deadline=0)).prompt_tokens == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"exo": []}, "exo"),
        ({"exo": {"strateggy": "cost"}}, "exo.strateggy"),
        ({"exo": {"max_cost": -1}}, "exo.max_cost"),
        ({"exo": {"continuation": "yes"}}, "exo.continuation"),
        ({"exo": {"fallbacks": ["a", 5]}}, "exo.fallbacks[1]"),
        ({"exo": {"no_cache": 1}}, "exo.no_cache"),
        ({"provider": 5}, "provider"),
        ({"provider": "a", "exo": {"provider": "b"}}, "provider"),
        ({"extra_body": "x"}, "extra_body"),
        ({"user": 5}, "user"),
        ({"model": 5}, "model"),
    ],
)
def test_refused(fields: dict[str, Any], param: str) -> None:
    """A wish that nobody would fulfil is a 400 that names it."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"messages": HI}, "chat"),
        ({"prompt": ""}, "completion"),
        ({"input": "x"}, "embedding"),
        ({"query": "x", "documents": []}, "rerank"),
    ],
)
def test_kinds_by_their_fields(body: dict[str, Any], kind: CallKind) -> None:
    """A body says by its fields which route it was written for; one that does not is refused."""
    assert guess_kind(body) == kind
    with pytest.raises(InvalidRequest):
        guess_kind({"model": "m"})


FIELDS = [
    "model", "messages", "prompt", "input", "query", "documents", "exo", "provider", "extra_body", "user", "stream",
    "stream_options", "tools", "response_format", "modalities", "logprobs", "n", "max_tokens", "voice", "speed", "size",
    "encoding_format", "dimensions", "top_n", "return_documents", "stream_format", "temperature", "language",
]  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
KEYS = st.sampled_from(["role", "content", "type", "text", "image_url", "url", "tool_calls", "strategy", "max_cost"])
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(REQUESTS)), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6))
def test_any_json_is_a_call_or_a_400(kind: CallKind, body: dict[str, Any]) -> None:
    """Whatever is sent makes a call whose counts are no nonsense, or an error of the sender's."""
    try:
        call = make_call(kind, body, Context(id="c", deadline=0.0, default_model="m"))
    except InvalidRequest as e:
        assert e.param
    else:
        assert call.prompt_tokens >= 0
        assert call.model == call.body["model"]


def test_extra_body_is_merged_once() -> None:
    """An extra_body within extra_body would be merged behind all checks, and ask for another model than was checked."""
    body = {"model": "cheap", "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(InvalidRequest) as caught:
        make_call("chat", {**body, "extra_body": {"extra_body": {"model": "dear"}}}, Context(id="c", deadline=9.0))
    assert caught.value.param == "extra_body.extra_body"
