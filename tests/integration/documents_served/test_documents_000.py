"""Document 000 (exo): its configuration and its tools, and callbacks of the node and the SDK."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exo_node import sdk
from exo_node.sdk import callbacks
from tests.integration import documents
from tests.integration.document_nodes import CONFIGS, HELLO, NEEDED, Cloud, Node, ready
from tests.integration.harness import wait_until
from tests.standins import Script, answer_to

pytestmark = NEEDED


# -- document 000: exo


def test_000_a_local_model_runs_on_the_ring(started: dict[str, Node], cloud: Cloud) -> None:
    """The first curl call of the document, with the model that is on this machine: no provider hears of it."""
    node = ready(started, "exo")
    body = next(one for one in documents.bodies(0) if one.get("model") == "llama-3.2-1b")
    status, told, headers = node.headers("POST", "/v1/chat/completions", {**body, "model": "demo", "max_tokens": 5})
    assert status == 200, told
    assert headers["x-exo-backend"] == "ring:demo"
    assert cloud.asked() == {}


def test_000_a_cloud_name_goes_out(started: dict[str, Node], cloud: Cloud) -> None:
    """The second curl call of the document: gpt-4 by the configured deployment, with its key."""
    node = ready(started, "exo")
    body = next(one for one in documents.bodies(0) if one.get("model") == "gpt-4" and "tools" not in one)
    status, told, headers = node.headers("POST", "/v1/chat/completions", body)
    assert (status, told["choices"][0]["message"]["content"]) == (200, answer_to("Hello!"))
    assert headers["x-exo-provider"] == "openai"
    assert cloud["openai"].requests[-1].headers["authorization"] == "Bearer sk-openai"


def test_000_every_deployment_of_the_file_and_the_default_model(started: dict[str, Node], cloud: Cloud) -> None:
    """gpt-4 and Ollama go straight, Claude through LiteLLM, each in its own wire format; no model: the default one."""
    node = ready(started, "exo")
    for model in ("gpt-4", "claude-3-opus", "ollama-llama3", None):
        assert node.chat(model)[0]["choices"][0]["message"]["content"] == answer_to("Hello!")
    assert cloud.asked() == {"openai": 2, "anthropic": 1, "ollama": 1}
    assert cloud["anthropic"].requests[-1].headers["x-api-key"] == "sk-ant"
    assert [one.model for one in cloud["openai"].requests] == ["gpt-4", "gpt-3.5-turbo"]


def test_000_an_unknown_name_is_asked_outside_first(started: dict[str, Node], cloud: Cloud) -> None:
    """An upstream proxy is asked for a name that nobody here knows; when it says no too, 404 with what there is."""
    node = ready(started, "muxer")
    cloud["litellm_proxy"].script = Script(status=404, message="no such model")
    status, refused = node.request("POST", "/v1/chat/completions", {"model": "nobody-has-this-1b", "messages": HELLO})
    assert [one.model for one in cloud["litellm_proxy"].requests] == ["nobody-has-this-1b"]
    assert (status, refused["error"]["code"]) == (404, "model_not_found")
    assert "no such model" in refused["error"]["message"] and "custom-llama-7b" in refused["error"]["message"]


def test_000_external_fails_and_the_ring_answers(started: dict[str, Node], cloud: Cloud) -> None:
    """The fallback to a local model, asked for by the request."""
    node = ready(started, "exo")
    cloud["ollama"].script = Script(status=503)
    _, headers = node.chat("ollama-llama3", max_tokens=3, exo={"fallbacks": ["demo"]})
    assert headers["x-exo-backend"] == "ring:demo"


def test_000_the_tools_example(started: dict[str, Node], cloud: Cloud) -> None:
    """The document's tools body as it stands: the call comes back in OpenAI's shape, plain and streamed."""
    node = ready(started, "exo")
    body = next(one for one in documents.bodies(0) if "tools" in one)
    status, told = node.request("POST", "/v1/chat/completions", body)
    call = told["choices"][0]["message"]["tool_calls"][0]
    assert (status, call["function"]["name"]) == (200, "get_weather")
    assert json.loads(call["function"]["arguments"]) == {"location": "Paris"}
    client = node.process.client()
    chunks = list(client.chat.completions.create(**body, stream=True))
    pieces = [one for c in chunks if c.choices for one in c.choices[0].delta.tool_calls or ()]
    assert json.loads("".join(one.function.arguments or "" for one in pieces)) == {"location": "Paris"}
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "tool_calls"


def test_000_the_documents_own_configuration_is_ours(started: dict[str, Node]) -> None:
    """configs/documents has the document's file; only the address of Ollama can be redirected."""
    theirs = next(one for one in documents.bodies(0) if "model_deployments" in one)
    ours = json.loads((CONFIGS / "000-exo.json").read_text())
    ours["model_deployments"][2]["litellm_params"]["api_base"] = "http://localhost:11434"
    assert theirs == ours


# -- callbacks


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("model", ["demo", "gpt-4", "claude-3-opus"], ids=["ring", "passthrough", "sidecar"])
def test_callbacks_of_the_node(started: dict[str, Node], cloud: Cloud, model: str, stream: bool) -> None:
    """Langfuse and Helicone get one event of each request, whoever served it."""
    node = ready(started, "exo")
    client = node.process.client()
    user = f"user of {model}, {stream}"  # the last events of the test before may still be on their way

    def told() -> tuple[list[Any], list[Any]]:
        generations, logs = cloud.services.told()
        mine = [one for one in generations if one["body"]["metadata"]["user"] == user]
        return mine, [one for one in logs if one["providerRequest"]["meta"].get("Helicone-User-Id") == user]

    answer: Any = client.chat.completions.create(model=model, messages=HELLO, max_tokens=4, stream=stream, user=user)
    text = "".join(c.choices[0].delta.content or "" for c in answer if c.choices) if stream else None
    text = text if stream else answer.choices[0].message.content
    wait_until(lambda: all(told()), 10, node.process.log)
    # Events come in order: a second one of the first call would be here too.
    client.chat.completions.create(model="ollama-llama3", messages=HELLO, max_tokens=4, user=user)
    wait_until(lambda: all(len(one) >= 2 for one in told()), 10, node.process.log)
    generations, logs = told()
    assert (len(generations), len(logs)) == (2, 2)
    assert generations[0]["body"]["output"] == text
    assert generations[0]["body"]["usage"]["output"] > 0
    assert logs[0]["providerResponse"]["json"]["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize("model", ["demo", "gpt-4", "claude-3-opus"], ids=["ring", "passthrough", "sidecar"])
def test_callbacks_of_the_sdk(
    started: dict[str, Node], cloud: Cloud, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`success_callback` at the caller's end: one event each, besides what the node tells."""
    ready(started, "exo").sdk(monkeypatch)
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    heard: list[Any] = []
    monkeypatch.setattr(sdk, "success_callback", ["langfuse", "helicone", heard.append])
    sdk.get_litellm_service().chat_completion(HELLO, model, max_tokens=4)
    callbacks.flush()
    ours = [one for one in cloud.services.told()[0] if not one["body"]["metadata"]["backend"]]
    assert len(ours) == len(heard) == 1
    assert ours[0]["body"]["output"] == heard[0].choices[0].message.content
