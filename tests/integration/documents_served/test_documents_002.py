"""Document 002 (LAS): its routes and its SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from exo_node import sdk
from tests.integration import documents
from tests.integration.document_nodes import HELLO, MASTER, NEEDED, Cloud, Node, ready, snippets
from tests.standins import Script, answer_to

pytestmark = NEEDED


# -- document 002: LAS
LAS = "http://localhost:7777"


@pytest.fixture
def las(started: dict[str, Node], cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node with the document's settings but for its cache, and the SDK's way to it."""
    node = ready(started, "switching", "002-las.json")
    node.request("POST", "/v1/config", {"enable_caching": False})
    node.sdk(monkeypatch)
    yield node
    for name in ("default_provider", "default_model", "ollama_base_url", "enable_caching", "enable_cost_tracking"):
        node.request("POST", "/v1/config", {name: None})


# The stand-in is at a private address, so the node fetches images itself: example.com cannot be reached from a test.
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
PICTURES = {"https://example.com/image.jpg": PIXEL, "https://example.com/cat.jpg": PIXEL}


def las_bodies(node: Node, path: str, wanted: str) -> list[tuple[int, Any]]:
    """The document's body with the key `wanted`, at the document's own path and at ours."""
    body = next(one for one in documents.bodies(2) if wanted in one)
    body = {name: PICTURES.get(value, value) if isinstance(value, str) else value for name, value in body.items()}
    return [node.request("POST", prefix + path, body) for prefix in ("/api/v1/litellm", "/v1")]


def test_002_chat(las: Node, cloud: Cloud) -> None:
    """The chat body and the streaming body."""
    for status, told in las_bodies(las, "/chat/completions", "temperature"):
        assert (status, told["choices"][0]["message"]["content"]) == (200, answer_to("Hello!"))
    streaming = next(one for one in documents.bodies(2) if one.get("stream"))
    client = las.process.client(default_headers={"Authorization": f"Bearer {MASTER}"})
    text = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(**streaming) if c.choices)
    assert text == answer_to("Tell me a story")
    assert cloud.asked() == {"ollama": 3}


def test_002_drop_in_for_openai(las: Node) -> None:
    """The OpenAI SDK at the document's base_url."""
    code = documents.blocks(2, "python")[0]
    names, _ = documents.run([code], {LAS: las.process.api, '"any"': f'"{MASTER}"'})
    assert names["response"].choices[0].message.content == answer_to("Hello!")


def test_002_models_and_providers(las: Node) -> None:
    """Models of one provider; every provider of the document's table with features and key."""
    status, told = las.request("GET", "/api/v1/litellm/models?provider=openai")
    assert status == 200
    assert {one["owned_by"] for one in told["data"]} == {"openai"}
    rows = {row["id"]: row for row in las.request("GET", "/api/v1/litellm/providers")[1]["data"]}
    named = {
        "ollama", "openai", "anthropic", "gemini", "groq", "openrouter", "huggingface", "together_ai", "deepseek",
        "azure", "bedrock", "hosted_vllm",
    }  # fmt: skip
    assert named <= rows.keys()
    assert (rows["openai"]["key"], rows["deepseek"]["key"], rows["ollama"]["key"]) == ("present", "missing", "keyless")
    assert {"vision", "tools", "tts", "stt"} <= set(rows["openai"]["features"])


def test_002_vision_embeddings_cost(las: Node, cloud: Cloud) -> None:
    """The bodies of the document's other routes."""
    for status, told in las_bodies(las, "/vision", "image_url"):
        assert (status, told["choices"][0]["message"]["content"]) == (200, answer_to("What's in this image?"))
    for status, told in las_bodies(las, "/embeddings", "input"):
        assert (status, len(told["data"][0]["embedding"])) == (200, 8)
    for status, told in las_bodies(las, "/cost/estimate", "input_tokens"):
        assert (status, told["total_cost"]) == (200, pytest.approx(0.0075))
    assert cloud.asked() == {"openai": 4}


def las_snippet(wanted: int, needs: tuple[int, ...] = (), **names: Any) -> tuple[dict[str, Any], str]:
    found: tuple[dict[str, Any], str] = snippets(2, wanted, PICTURES, needs, **names)
    return found


def service() -> sdk.LiteLLMService:
    """A service of a test's own: what one test sets is not another's."""
    return sdk.LiteLLMService()


def test_002_sdk_completion(las: Node, cloud: Cloud) -> None:
    """get_litellm_service, sync and async."""
    names, printed = las_snippet(1)
    assert printed == answer_to("Hello!") + "\n"
    assert names["response"].choices[0].message.content == answer_to("Hello!")
    assert cloud.asked() == {"ollama": 1, "openai": 1}


def test_002_sdk_streaming(las: Node) -> None:
    """The text comes chunk by chunk."""
    _, printed = las_snippet(2, svc=service())
    assert answer_to("Tell me a story") in printed


def test_002_sdk_tools(las: Node) -> None:
    """The tool runs by itself and the model hears its result."""
    names, printed = las_snippet(3, svc=service())
    assert printed == answer_to("Weather in Paris: Sunny, 72°F") + "\n"
    assert names["result"]["tool_calls"][0]["arguments"] == '{"location": "Paris"}'


def test_002_sdk_vision_and_embeddings(las: Node) -> None:
    """vision_completion and create_embedding."""
    names, _ = las_snippet(4, svc=service())
    assert names["response"].choices[0].message.content == answer_to("Describe this image in detail")
    names, _ = las_snippet(5, svc=service())
    assert [len(one) for one in names["embeddings"]] == [8, 8]


def test_002_provider_factory(las: Node, cloud: Cloud) -> None:
    """ProviderFactory.create with the provider in the model's name."""
    names, _ = las_snippet(6)
    assert names["response"].choices[0].message.content == answer_to("Hello!")
    names["provider"].chat_completion(HELLO)
    assert cloud.asked() == {"openai": 1, "ollama": 1}


def test_002_service_configuration(las: Node, cloud: Cloud) -> None:
    """`_setup_litellm` tells the node; `update_config` changes the defaults of the calls that follow."""
    found = documents.blocks(2, "python")
    names, _ = documents.run([found[7], found[8]], {"http://localhost:11434": cloud["ollama"].url})
    svc = names["svc"]
    for _ in range(2):
        assert svc.chat_completion(messages=HELLO).choices[0].message.content == answer_to("Hello!")
    assert cloud.asked() == {"openai": 1}  # enable_caching=True: the second one came from the cache
    assert cloud["openai"].requests[0].body["temperature"] == 0.5


def test_002_error_handling(las: Node, cloud: Cloud) -> None:
    """Every exception that the document names is raised for its cause, as LiteLLM's class where that is installed."""
    svc = sdk.LiteLLMService(sdk.LiteLLMConfig(default_model="openai/ft:of-nobody-else"))
    causes = {
        429: "RateLimitError",
        401: "AuthenticationError",
        503: "ServiceUnavailableError",
        400: "InvalidRequestError",
    }
    for status, name in causes.items():
        cloud["openai"].script = Script(status=status, message="scripted", retry_after="0")
        with pytest.raises(getattr(sdk, name)):
            svc.chat_completion(messages=HELLO)
    las_snippet(9, svc=svc, messages=HELLO)  # catches it
    svc.close()


def test_002_langchain(las: Node) -> None:
    """The document's chain; and a pipe with a streamed and an async answer."""
    pytest.importorskip("langchain_core")
    names, _ = las_snippet(10)
    assert names["result"] == answer_to("Tell me about AI")
    chain = names["prompt"] | names["llm"]
    assert "".join(str(one.content) for one in chain.stream({"topic": "AI"})) == answer_to("Tell me about AI")
    assert asyncio.run(chain.ainvoke({"topic": "AI"})).usage_metadata["output_tokens"] > 0


def test_002_callbacks(las: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """`success_callback = [function]` hears of model and usage."""
    monkeypatch.setattr(sdk, "success_callback", [])
    printed: list[str] = []
    names, _ = las_snippet(11)
    names["log_success"].__globals__["print"] = printed.append
    service().chat_completion(HELLO, "openai/gpt-4o")
    assert len(printed) == 1 and printed[0].startswith("Model: gpt-4o, Tokens: {")
