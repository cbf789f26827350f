"""One daemon with external models, as its users meet it: the official SDK, real HTTP, stand-in providers, LiteLLM."""

from __future__ import annotations

import os
import signal
import urllib.request
from typing import Any

import openai
import pytest

from tests.integration.external_stage import ANSWER, HELLO, KEY, LONG, Stage, needs_litellm
from tests.integration.harness import wait_until
from tests.standins import Script


def test_chat_whole_and_streamed(stage: Stage) -> None:
    """A pass-through deployment answers as its provider does, and the headers say who served it at what cost."""
    raw = stage.chat("fast")
    answer = raw.parse()
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (ANSWER, "stop")
    assert raw.headers["x-exo-backend"] == "fast-1"
    assert raw.headers["x-exo-provider"] == "openai"
    assert raw.headers["x-exo-model"] == "gpt-4o-mini"
    assert raw.headers["x-exo-attempts"].startswith("fast-1")
    assert float(raw.headers["x-exo-cost"]) == pytest.approx(
        answer.usage.prompt_tokens * 1e-6 + answer.usage.completion_tokens * 2e-6
    )
    chunks = list(stage.chat("fast", stream=True, stream_options={"include_usage": True}).parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert chunks[-1].usage == answer.usage
    assert stage.openai.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    assert stage.openai.requests[-1].body["model"] == "gpt-4o-mini"


def test_pictures_go_where_they_are_seen(stage: Stage) -> None:
    """The ring's model reads texts only: its fallback gets the picture (test_tools: without one it is a 400)."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "Hello there"}, picture]}]
    raw = stage.chat("demo", messages=asked)
    assert (raw.headers["x-exo-backend"], raw.parse().choices[0].message.content) == ("fast-1", ANSWER)
    assert stage.openai.requests[-1].body["messages"] == asked
    assert stage.backend("demo") == "ring:demo"


def test_embeddings(stage: Stage) -> None:
    """Vectors come through, and the ring never serves them."""
    found = stage.node.client().embeddings.create(model="vectors", input=["one", "two"])
    assert [len(one.embedding) for one in found.data] == [8, 8]
    stage.openai.script = Script(status=500)
    with pytest.raises(openai.InternalServerError) as error:
        stage.node.client().embeddings.create(model="vectors", input="one")
    assert KEY not in str(error.value)


@needs_litellm
def test_the_sidecar(stage: Stage) -> None:
    """A provider with a wire format of its own is asked through LiteLLM, whole and streamed."""
    raw = stage.chat("claude", max_tokens=200)
    assert (raw.headers["x-exo-backend"], raw.parse().choices[0].message.content) == ("claude-1", ANSWER)
    chunks = list(stage.chat("claude", stream=True, max_tokens=200).parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert stage.anthropic.requests[-1].headers["x-api-key"] == KEY


@needs_litellm
def test_a_killed_worker(stage: Stage) -> None:
    """`kill -9` of the sidecar's workers in the middle of a stream: another backend finishes the answer."""
    stage.anthropic.script = LONG
    seen, finish = "", None
    killed: list[int] = []
    for chunk in stage.chat("claude", stream=True, max_tokens=200).parse():
        for choice in chunk.choices:
            seen += choice.delta.content or ""
            finish = choice.finish_reason or finish
        if not killed and len(seen.split()) >= 3:
            workers = stage.node.request("GET", "/v1/router/stats")[1]["litellm"]["workers"]
            killed = [worker["pid"] for worker in workers if worker["in_flight"]]
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
    assert killed
    assert finish in ("stop", "length")
    assert len(seen.split()) > 3
    stage.anthropic.script = Script()
    wait_until(lambda: stage.backend("claude") == "claude-1", 60)


def test_failover_to_the_ring_and_back(stage: Stage) -> None:
    """While the provider fails the demo answers; once it is well it serves again."""
    stage.openai.script = Script(status=500)
    raw = stage.chat("fast", max_tokens=5)
    assert raw.headers["x-exo-backend"] == "ring:demo"
    assert raw.parse().choices[0].message.content
    assert "fast-1" in raw.headers["x-exo-attempts"]
    chunks = list(stage.chat("fast", max_tokens=5, stream=True).parse())
    assert chunks[-1].choices[0].finish_reason
    stage.openai.script = Script()
    wait_until(lambda: stage.backend("fast") == "fast-1", 60)


def test_explained_and_counted(stage: Stage) -> None:
    """What would be done is told without doing it; what was done is in the statistics and the metrics."""
    stage.chat("fast")
    asked = len(stage.openai.requests)
    status, plan = stage.node.request("POST", "/v1/route/explain", {"model": "fast", "messages": HELLO})
    assert (status, [step["backend"] for step in plan["steps"]]) == (200, ["fast-1", "ring:demo"])
    assert len(stage.openai.requests) == asked
    stats = stage.node.request("GET", "/v1/router/stats")[1]
    assert {"fast", "claude", "vectors"} <= set(stats["model_list"])
    assert "openai/gpt-4o-mini" in stats["healthy_deployments"]
    assert stats["requests"]["requests"] >= 1
    assert any(row["backend"] == "fast-1" for row in stats["profile"])
    with urllib.request.urlopen(f"{stage.node.api}/metrics") as answer:
        text = answer.read().decode()
        assert answer.headers["Content-Type"].startswith("text/plain")
    assert any("fast-1" in line and not line.endswith(" 0.0") for line in text.splitlines() if "request" in line)


def test_providers(stage: Stage) -> None:
    """A check asks the provider for its models with the deployment's key; an unknown provider is a 404."""
    status, row = stage.node.request("POST", "/v1/providers/openai/check")
    assert (status, row["ok"], row["costs"]) == (200, True, False), row
    assert stage.openai.requests[-1].path == "/v1/models"
    stage.openai.key = "sk-another-9876543210"
    try:
        row = stage.node.request("POST", "/v1/providers/openai/check")[1]
        assert (row["ok"], "not accepted" in row["detail"]) == (False, True), row
        assert stage.deployments()["fast-1"]["usable"] is False
    finally:
        stage.openai.key = KEY
    assert stage.node.request("POST", "/v1/providers/openai/check")[1]["ok"]
    assert stage.deployments()["fast-1"]["usable"] is True
    assert stage.node.request("POST", "/v1/providers/nobody/check")[0] == 404


def test_a_provider_without_a_key_is_named(stage: Stage) -> None:
    """Who asks for groq without its key and is answered by another is told so."""
    fallbacks: Any = {"exo": {"fallbacks": ["fast"]}}
    raw = stage.chat("groq/llama-3.3-70b-versatile", extra_body=fallbacks)
    assert raw.headers["x-exo-backend"] == "fast-1"
    assert "groq/llama-3.3-70b-versatile: no key for Groq: set GROQ_API_KEY" in raw.headers["x-exo-reason"]


def test_an_unknown_model(stage: Stage) -> None:
    """A name that nobody knows is a 404 that lists what there is."""
    with pytest.raises(openai.NotFoundError) as error:
        stage.chat("nobody")
    assert "claude" in str(error.value)


@needs_litellm
def test_what_one_does_not_take_another_may(stage: Stage) -> None:
    """A field that LiteLLM does not hand on to a provider fails over; where nobody else may answer, a 400 names it."""
    body = {"model": "claude", "n": 2, "messages": HELLO}
    status, answer = stage.node.request("POST", "/v1/chat/completions", body)
    assert (status, len(answer["choices"])) == (200, 2)
    status, answer = stage.node.request("POST", "/v1/chat/completions", {**body, "exo": {"fallbacks": []}})
    error = answer["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", "n")
    assert error["code"] == "unsupported_parameter"
