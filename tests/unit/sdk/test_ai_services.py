"""Document 004's provider and document 002's factory; a node's answers from a real API over scripted routing."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.sdk import LiteLLMConfig, LiteLLMService
from exo_node.sdk.ai_services import AIProvider
from exo_node.sdk.factory import ProviderFactory
from tests.standins import OpenAI, Script, serve


async def test_vectors_as_the_document_has_them() -> None:
    """One text: its vector; several: one each."""
    upstream = OpenAI()
    with serve(upstream):
        provider = AIProvider("p", LiteLLMService(LiteLLMConfig(base_url=upstream.url)))
        one = await provider.get_embeddings(text="a", llm="text-embedding-3-small")
        two = await provider.get_embeddings(text=["a", "b"], llm="text-embedding-3-small")
        assert one == two[0] and len(two) == 2
        assert (await provider.rerank("b", ["a", "b"], llm="r")).results[0].index == 1
        answer = await provider.create_chat_completion([{"role": "user", "content": "Hi"}], "gpt-4o", temperature=0.7)
        assert answer.usage.total_tokens > 0
    assert upstream.requests[-1].body["temperature"] == 0.7


async def test_calls_name_the_record_and_its_models() -> None:
    """Every call is for this record, and asks for the record's default model where it names none."""
    upstream, models = OpenAI(), {"chat": "c", "embedding": "e", "rerank": "r"}
    with serve(upstream):
        provider = AIProvider("p", LiteLLMService(LiteLLMConfig(base_url=upstream.url)), models)
        await provider.create_chat_completion([{"role": "user", "content": "Hi"}], exo={"no_cache": True})
        await provider.get_embeddings("a")
        await provider.rerank("b", ["a"])
    bodies = [request.body for request in upstream.requests]
    assert [body["model"] for body in bodies] == ["c", "e", "r"]
    assert [body["exo"] for body in bodies] == [{"record": "p", "no_cache": True}, {"record": "p"}, {"record": "p"}]


def test_a_factory_binds_a_model() -> None:
    """ "litellm" leaves the model's name as it is, another provider stands before it; no model is an error."""
    create: Any = ProviderFactory.create
    assert create(provider_name="litellm", model="openai/gpt-4o").model == "openai/gpt-4o"
    assert create("ollama", model="llama3.2").model == "ollama/llama3.2"
    with pytest.raises(ValueError, match="needs model="):
        create("litellm")


async def test_a_bound_provider_asks_for_its_model() -> None:
    """Sync and async; its configuration's defaults go with it, its key is in no repr."""
    upstream = OpenAI(key="k", script=Script(text="hi"))
    with serve(upstream):
        bound = ProviderFactory.create(model="openai/gpt-4o", base_url=upstream.url, api_key="k", temperature=0.3)
        assert bound.chat_completion([{"role": "user", "content": "x"}]).choices[0].message.content == "hi"
        assert (await bound.achat_completion([{"role": "user", "content": "x"}])).model == "openai/gpt-4o"
    assert upstream.requests[0].body["temperature"] == 0.3
    assert "'k'" not in repr(LiteLLMConfig(api_key="k"))
