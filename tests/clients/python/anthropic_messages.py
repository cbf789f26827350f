"""The `anthropic` package: messages, tools, counting, models."""

from __future__ import annotations

import json
from typing import Any, Literal

import anthropic
import pydantic
from common import INPUTS, MESSAGES, TOOL_MESSAGES, Target, failure, main, refusals

TOOL: Any = {
    "name": INPUTS["tool_name"],
    "description": INPUTS["tool_description"],
    "input_schema": INPUTS["schema"],
}
LIMIT = 200  # the API wants one
GREEDY = {"temperature": 0}  # the package has no argument for it any more


class Trip(pydantic.BaseModel):
    city: Literal["Paris", "Rome"]
    days: Literal[1, 2, 3]  # the package makes comments of bounds


def connect(target: Target, **options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=target.url, api_key=target.key, **{"timeout": 60, "max_retries": 0, **options})


def whole(answer: Any) -> dict[str, Any]:
    return {
        "text": "".join(block.text for block in answer.content if block.type == "text"),
        "finish": answer.stop_reason,
        "tokens_in": answer.usage.input_tokens,
        "tokens_out": answer.usage.output_tokens,
    }


def chat(target: Target) -> Any:
    return whole(
        connect(target).messages.create(model=target.model, messages=MESSAGES, max_tokens=LIMIT, extra_body=GREEDY)
    )


def bearer(target: Target) -> Any:
    """The key as other gateways want it."""
    client = anthropic.Anthropic(base_url=target.url, api_key=None, auth_token=target.key, max_retries=0)
    return whole(client.messages.create(model=target.model, messages=MESSAGES, max_tokens=LIMIT, extra_body=GREEDY))


def stream(target: Target) -> Any:
    with connect(target).messages.stream(
        model=target.model, messages=MESSAGES, max_tokens=LIMIT, extra_body=GREEDY
    ) as events:
        pieces = list(events.text_stream)
        final = events.get_final_message()
    return {**whole(final), "pieces": len(pieces), "same_id": "".join(pieces) == whole(final)["text"]}


async def stream_async(target: Target) -> Any:
    async with anthropic.AsyncAnthropic(base_url=target.url, api_key=target.key, max_retries=0) as client:
        found = await client.messages.create(
            model=target.model, messages=MESSAGES, max_tokens=LIMIT, extra_body=GREEDY, stream=True
        )
        events = [event async for event in found]
    pieces = [event.delta.text for event in events if event.type == "content_block_delta"]
    delta = next(event for event in events if event.type == "message_delta")
    return {
        "text": "".join(pieces),
        "pieces": len(pieces),
        "finish": delta.delta.stop_reason,
        "tokens_in": events[0].message.usage.input_tokens or delta.usage.input_tokens,
        "tokens_out": delta.usage.output_tokens,
        "same_id": (events[0].type, events[-1].type) == ("message_start", "message_stop"),
    }


def _round_trip(target: Target, message: Any) -> Any:
    calls = [block for block in message.content if block.type == "tool_use"]
    result: Any = {"type": "tool_result", "tool_use_id": calls[0].id, "content": INPUTS["tool_result"]}
    again: Any = [
        *TOOL_MESSAGES,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    answer = connect(target).messages.create(
        model=target.model, messages=again, tools=[TOOL], max_tokens=60, extra_body=GREEDY
    )
    return {
        "name": calls[0].name,
        "id": calls[0].id,
        "arguments": calls[0].input,
        "calls": len(calls),
        "finish": message.stop_reason,
        "text": whole(answer)["text"],
    }


def tools(target: Target) -> Any:
    answer = connect(target).messages.create(
        model=target.model,
        messages=TOOL_MESSAGES,
        tools=[TOOL],
        tool_choice={"type": "any"},
        max_tokens=LIMIT,
        extra_body=GREEDY,
    )
    return _round_trip(target, answer)


def tools_stream(target: Target) -> Any:
    with connect(target).messages.stream(
        model=target.model,
        messages=TOOL_MESSAGES,
        tools=[TOOL],
        tool_choice={"type": "tool", "name": INPUTS["tool_name"]},
        max_tokens=LIMIT,
        extra_body=GREEDY,
    ) as events:
        pieces = [event.partial_json for event in events if event.type == "input_json"]
        return {**_round_trip(target, events.get_final_message()), "pieces": len(pieces)}


def structured(target: Target) -> Any:
    wanted: Any = {"format": {"type": "json_schema", "schema": INPUTS["schema"]}}
    answer = connect(target).messages.create(
        model=target.model, messages=TOOL_MESSAGES, max_tokens=LIMIT, output_config=wanted, extra_body=GREEDY
    )
    return {"value": json.loads(whole(answer)["text"])}


def structured_parse(target: Target) -> Any:
    answer = connect(target).messages.parse(
        model=target.model, messages=TOOL_MESSAGES, max_tokens=LIMIT, output_format=Trip, extra_body=GREEDY
    )
    return {"value": answer.parsed_output.model_dump()}


def errors(target: Target) -> Any:
    def ask(target: Target, **more: Any) -> Any:
        return connect(target).messages.create(
            **{"model": target.model, "messages": MESSAGES, "max_tokens": LIMIT, **more}
        )

    return refusals(target, ask, lambda: connect(target).models.retrieve("no/such"))


def cancel(target: Target) -> Any:
    endless: Any = {"format": {"type": "json_schema", "schema": INPUTS["endless_schema"]}}
    found = connect(target).messages.create(
        model=target.model, messages=MESSAGES, max_tokens=8000, output_config=endless, stream=True
    )
    first = next(event for event in found if event.type == "content_block_delta")
    found.close()
    return {"first": first.delta.text}


def models(target: Target) -> Any:
    client = connect(target)
    return {"ids": [one.id for one in client.models.list()], "retrieved": client.models.retrieve(target.model).id}


def count(target: Target) -> Any:
    found = connect(target).messages.count_tokens(model=target.model, messages=TOOL_MESSAGES, tools=[TOOL])
    return {"tokens": found.input_tokens}


def retries(target: Target) -> Any:
    client = connect(target, max_retries=2)
    return whole(client.messages.create(model=target.model, messages=MESSAGES, max_tokens=LIMIT, extra_body=GREEDY))


def retries_overload(target: Target) -> Any:
    return retries(target)


def broken_stream(target: Target) -> Any:
    pieces: list[str] = []

    def read() -> None:
        with connect(target).messages.stream(model=target.model, messages=MESSAGES, max_tokens=LIMIT) as events:
            pieces.extend(events.text_stream)

    raised = failure(read)
    return {**raised, "text": "".join(pieces), "api_error": "APIError"}


main(
    "anthropic",
    {
        scenario.__name__: scenario
        for scenario in (
            *(chat, bearer, stream, stream_async, tools, tools_stream, structured, structured_parse, errors, cancel),
            *(models, count, retries, retries_overload, broken_stream),
        )
    },
)
