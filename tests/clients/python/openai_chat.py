"""The `openai` package: chat completions and what lies beside them. Runs with 2.x and 3.x."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pydantic
from common import INPUTS, MESSAGES, TOOL, TOOL_MESSAGES, Target, failure, main, refusals, whole


class Trip(pydantic.BaseModel):
    """inputs.json's schema, as users of `.parse()` write it."""

    city: Literal["Paris", "Rome"]
    days: int = pydantic.Field(ge=1, le=9)


def connect(target: Target, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{target.url}/v1", api_key=target.key, **{"timeout": 60, "max_retries": 0, **options}
    )


def chat(target: Target) -> Any:
    return whole(connect(target).chat.completions.create(model=target.model, messages=MESSAGES, temperature=0))


def streamed(chunks: list[Any]) -> dict[str, Any]:
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    return {
        "text": "".join(pieces),
        "pieces": len(pieces),
        "finish": [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1],
        "tokens_in": chunks[-1].usage.prompt_tokens,
        "tokens_out": chunks[-1].usage.completion_tokens,
        "same_id": len({(chunk.id, chunk.model, chunk.object) for chunk in chunks}) == 1,
    }


def stream(target: Target) -> Any:
    found = connect(target).chat.completions.create(
        model=target.model, messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    return streamed(list(found))


def stream_helper(target: Target) -> Any:
    """The helper asserts on the shape of every chunk."""
    with connect(target).chat.completions.stream(
        model=target.model, messages=MESSAGES, temperature=0, stream_options={"include_usage": True}
    ) as events:
        pieces = [event.delta for event in events if event.type == "content.delta"]
        return {**whole(events.get_final_completion()), "pieces": len(pieces)}


async def stream_async(target: Target) -> Any:
    async with openai.AsyncOpenAI(base_url=f"{target.url}/v1", api_key=target.key, max_retries=0) as client:
        found = await client.chat.completions.create(
            model=target.model, messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        return streamed([chunk async for chunk in found])


def _round_trip(target: Target, message: Any, finish: str) -> Any:
    call = message.tool_calls[0]
    said = {
        "role": "assistant",
        "content": message.content,
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
        ],
    }
    result = {"role": "tool", "tool_call_id": call.id, "content": INPUTS["tool_result"]}
    again: Any = [*TOOL_MESSAGES, said, result]
    answer = connect(target).chat.completions.create(
        model=target.model, messages=again, tools=[TOOL], temperature=0, max_tokens=60
    )
    return {
        "name": call.function.name,
        "id": call.id,
        "arguments": json.loads(call.function.arguments),
        "finish": finish,
        "calls": len(message.tool_calls),
        "text": answer.choices[0].message.content,
    }


def tools(target: Target) -> Any:
    answer = connect(target).chat.completions.create(
        model=target.model, messages=TOOL_MESSAGES, tools=[TOOL], tool_choice="required", temperature=0
    )
    return _round_trip(target, answer.choices[0].message, answer.choices[0].finish_reason)


def tools_stream(target: Target) -> Any:
    named: Any = {"type": "function", "function": {"name": INPUTS["tool_name"]}}
    with connect(target).chat.completions.stream(
        model=target.model, messages=TOOL_MESSAGES, tools=[TOOL], tool_choice=named, temperature=0
    ) as events:
        pieces = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
        final = events.get_final_completion().choices[0]
    return {**_round_trip(target, final.message, final.finish_reason), "pieces": len(pieces)}


def structured(target: Target) -> Any:
    answer = connect(target).chat.completions.parse(
        model=target.model, messages=TOOL_MESSAGES, response_format=Trip, temperature=0
    )
    found = answer.choices[0].message.parsed
    return {"value": None if found is None else found.model_dump()}


def structured_stream(target: Target) -> Any:
    with connect(target).chat.completions.stream(
        model=target.model, messages=TOOL_MESSAGES, response_format=Trip, temperature=0
    ) as events:
        events.until_done()
        found = events.get_final_completion().choices[0].message.parsed
    return {"value": None if found is None else found.model_dump()}


def errors(target: Target) -> Any:
    def ask(target: Target, **more: Any) -> Any:
        return connect(target).chat.completions.create(**{"model": target.model, "messages": MESSAGES, **more})

    return refusals(target, ask, lambda: connect(target).models.retrieve("no/such"))


def cancel(target: Target) -> Any:
    """Leaves in the middle of a stream that would go on for minutes."""
    endless: Any = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": INPUTS["endless_schema"]}}
    found = connect(target).chat.completions.create(
        model=target.model, messages=MESSAGES, response_format=endless, stream=True, max_tokens=8000
    )
    first = next(chunk for chunk in found if chunk.choices[0].delta.content)
    found.close()
    return {"first": first.choices[0].delta.content}


def timeout(target: Target) -> Any:
    """Leaves a whole answer that would take minutes, by the client's own timeout."""
    endless: Any = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": INPUTS["endless_schema"]}}
    return failure(
        lambda: connect(target, timeout=1.0).chat.completions.create(
            model=target.model, messages=MESSAGES, response_format=endless, max_tokens=8000
        )
    )


def models(target: Target) -> Any:
    client = connect(target)
    return {"ids": [one.id for one in client.models.list()], "retrieved": client.models.retrieve(target.model).id}


def headers(target: Target) -> Any:
    raw = connect(target).chat.completions.with_raw_response.create(
        model=target.model, messages=MESSAGES, temperature=0
    )
    return {**whole(raw.parse()), "headers": {name.lower(): value for name, value in raw.headers.items()}}


def choices(target: Target) -> Any:
    answer = connect(target).chat.completions.create(
        model=target.model, messages=MESSAGES, temperature=0, n=2, logprobs=True, top_logprobs=2, seed=7
    )
    return {
        "texts": [choice.message.content for choice in answer.choices],
        "indices": [choice.index for choice in answer.choices],
        "logprobs": [
            [one.logprob for one in choice.logprobs.content or []] if choice.logprobs else None
            for choice in answer.choices
        ],
        "tokens": ["".join(one.token for one in (c.logprobs and c.logprobs.content) or []) for c in answer.choices],
    }


def seed(target: Target) -> Any:
    client = connect(target)
    texts = [
        client.chat.completions.create(
            model=target.model, messages=MESSAGES, temperature=1.5, seed=11, max_tokens=30
        ).choices[0]
        for _ in range(2)
    ]
    return {"texts": [one.message.content for one in texts]}


def completions(target: Target) -> Any:
    client = connect(target)
    answer = client.completions.create(model=target.model, prompt="exo is", max_tokens=8, temperature=0)
    pieces = [
        chunk.choices[0].text
        for chunk in client.completions.create(
            model=target.model, prompt="exo is", max_tokens=8, temperature=0, stream=True
        )
        if chunk.choices
    ]
    return {"text": answer.choices[0].text, "streamed": "".join(pieces), "finish": answer.choices[0].finish_reason}


def embeddings(target: Target) -> Any:
    """The package asks for base64 unless told otherwise."""
    client = connect(target)
    packed = client.embeddings.create(model=target.model, input=INPUTS["texts"])
    plain = client.embeddings.create(model=target.model, input=INPUTS["texts"], encoding_format="float")
    return {
        "vectors": [one.embedding for one in packed.data],
        "plain": [one.embedding for one in plain.data],
        "tokens_in": packed.usage.prompt_tokens,
    }


def retries(target: Target) -> Any:
    """The answer after a refusal that says when to come again."""
    client = connect(target, max_retries=2)
    return whole(client.chat.completions.create(model=target.model, messages=MESSAGES, temperature=0))


def retries_overload(target: Target) -> Any:
    return retries(target)


def broken_stream(target: Target) -> Any:
    def read() -> None:
        for chunk in connect(target).chat.completions.create(model=target.model, messages=MESSAGES, stream=True):
            pieces.append(chunk.choices[0].delta.content or "")

    pieces: list[str] = []
    return {**failure(read), "api_error": "APIError", "text": "".join(pieces)}


main(
    "openai",
    {
        scenario.__name__: scenario
        for scenario in (
            *(chat, stream, stream_helper, stream_async, tools, tools_stream, structured, structured_stream, errors),
            *(
                cancel,
                timeout,
                models,
                headers,
                choices,
                seed,
                completions,
                embeddings,
                retries,
                retries_overload,
                broken_stream,
            ),
        )
    },
)
