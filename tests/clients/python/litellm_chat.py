"""The `litellm` package, told that the node is an OpenAI-compatible server."""

from __future__ import annotations

import json
from typing import Any

import litellm
from common import INPUTS, MESSAGES, TOOL, TOOL_MESSAGES, Target, failure, main, whole

litellm.telemetry = False


def ask(target: Target, **more: Any) -> Any:
    return litellm.completion(
        **{
            "model": f"openai/{target.model}",
            "api_base": f"{target.url}/v1",
            "api_key": target.key,
            "messages": MESSAGES,
            "temperature": 0,
            "max_retries": 0,
            "timeout": 60,
            **more,
        }
    )


def chat(target: Target) -> Any:
    return whole(ask(target))


def stream(target: Target) -> Any:
    chunks = list(ask(target, stream=True, stream_options={"include_usage": True}))
    pieces = [one.choices[0].delta.content for one in chunks if one.choices and one.choices[0].delta.content]
    return {**whole(litellm.stream_chunk_builder(chunks)), "pieces": len(pieces)}


async def stream_async(target: Target) -> Any:
    found = await litellm.acompletion(
        model=f"openai/{target.model}",
        api_base=f"{target.url}/v1",
        api_key=target.key,
        messages=MESSAGES,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in found]
    pieces = [one.choices[0].delta.content for one in chunks if one.choices and one.choices[0].delta.content]
    return {**whole(litellm.stream_chunk_builder(chunks)), "pieces": len(pieces)}


def tools(target: Target) -> Any:
    first = ask(target, messages=TOOL_MESSAGES, tools=[TOOL], tool_choice="required").choices[0]
    call = first.message.tool_calls[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": INPUTS["tool_result"]}
    answer = ask(target, messages=[*TOOL_MESSAGES, first.message, result], tools=[TOOL], max_tokens=60)
    return {
        "name": call.function.name,
        "id": call.id,
        "arguments": json.loads(call.function.arguments),
        "calls": len(first.message.tool_calls),
        "finish": first.finish_reason,
        "text": answer.choices[0].message.content,
    }


def structured(target: Target) -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "trip", "strict": True, "schema": INPUTS["schema"]}}
    return {"value": json.loads(ask(target, messages=TOOL_MESSAGES, response_format=form).choices[0].message.content)}


def errors(target: Target) -> Any:
    return {
        "unknown": failure(lambda: ask(target.but(model="no-such-model"))),
        "unknown_stream": failure(lambda: ask(target.but(model="no-such-model"), stream=True)),
        "bad": failure(lambda: ask(target, messages=[])),
        "key": failure(lambda: ask(target.but(key="sk-wrong"))),
    }


async def cancel(target: Target) -> Any:
    """Asynchronous: LiteLLM's synchronous stream has no way to close it."""
    form = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": INPUTS["endless_schema"]}}
    found: Any = await litellm.acompletion(
        model=f"openai/{target.model}",
        api_base=f"{target.url}/v1",
        api_key=target.key,
        messages=MESSAGES,
        response_format=form,
        max_tokens=8000,
        stream=True,
    )
    async for chunk in found:
        if chunk.choices[0].delta.content:
            await found.aclose()
            return {"first": chunk.choices[0].delta.content}
    return {"first": ""}


def embeddings(target: Target) -> Any:
    found = litellm.embedding(
        model=f"openai/{target.model}", api_base=f"{target.url}/v1", api_key=target.key, input=INPUTS["texts"]
    )
    return {"vectors": [one["embedding"] for one in found.data], "tokens_in": found.usage.prompt_tokens}


main(
    "litellm",
    {
        scenario.__name__: scenario
        for scenario in (chat, stream, stream_async, tools, structured, errors, cancel, embeddings)
    },
)
