"""The `openai` package: the Responses API. Runs with 2.x and 3.x."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pydantic
from common import INPUTS, TOOL, Target, failure, main

FUNCTION: Any = {"type": "function", **TOOL["function"], "strict": True}


class Trip(pydantic.BaseModel):
    city: Literal["Paris", "Rome"]
    days: int = pydantic.Field(ge=1, le=9)


def connect(target: Target) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{target.url}/v1", api_key=target.key, timeout=60, max_retries=0)


def whole(answer: Any) -> dict[str, Any]:
    return {
        "text": answer.output_text,
        "finish": answer.status,
        "tokens_in": answer.usage.input_tokens,
        "tokens_out": answer.usage.output_tokens,
    }


def chat(target: Target) -> Any:
    return whole(connect(target).responses.create(model=target.model, input=INPUTS["question"], temperature=0))


def stream(target: Target) -> Any:
    """Every event by the package's own types, in the order of their numbers."""
    events = list(
        connect(target).responses.create(model=target.model, input=INPUTS["question"], temperature=0, stream=True)
    )
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    last: Any = events[-1]
    return {
        **whole(last.response),
        "pieces": len(pieces),
        "same_id": "".join(pieces) == last.response.output_text
        and [event.sequence_number for event in events] == list(range(len(events))),
    }


def stream_helper(target: Target) -> Any:
    with connect(target).responses.stream(model=target.model, input=INPUTS["question"], temperature=0) as events:
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
        return {**whole(events.get_final_response()), "pieces": len(pieces)}


def _round_trip(target: Target, answer: Any) -> Any:
    """The result goes with the id of the response before it: that is kept by the server."""
    calls = [item for item in answer.output if item.type == "function_call"]
    result: Any = {"type": "function_call_output", "call_id": calls[0].call_id, "output": INPUTS["tool_result"]}
    again = connect(target).responses.create(
        model=target.model,
        previous_response_id=answer.id,
        input=[result],
        tools=[FUNCTION],
        temperature=0,
        max_output_tokens=60,
    )
    return {
        "name": calls[0].name,
        "id": calls[0].call_id,
        "arguments": json.loads(calls[0].arguments),
        "calls": len(calls),
        "finish": answer.status,
        "text": again.output_text,
    }


def tools(target: Target) -> Any:
    answer = connect(target).responses.create(
        model=target.model, input=INPUTS["tool_question"], tools=[FUNCTION], tool_choice="required", temperature=0
    )
    return _round_trip(target, answer)


def tools_stream(target: Target) -> Any:
    named: Any = {"type": "function", "name": INPUTS["tool_name"]}
    with connect(target).responses.stream(
        model=target.model, input=INPUTS["tool_question"], tools=[FUNCTION], tool_choice=named, temperature=0
    ) as events:
        pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        return {**_round_trip(target, events.get_final_response()), "pieces": len(pieces)}


def structured(target: Target) -> Any:
    answer = connect(target).responses.parse(
        model=target.model, input=INPUTS["tool_question"], text_format=Trip, temperature=0
    )
    return {"value": None if answer.output_parsed is None else answer.output_parsed.model_dump()}


def errors(target: Target) -> Any:
    def ask(target: Target, **more: Any) -> Any:
        return connect(target).responses.create(**{"model": target.model, "input": INPUTS["question"], **more})

    return {
        "unknown": failure(lambda: ask(target.but(model="no-such-model"))),
        "unknown_stream": failure(lambda: ask(target.but(model="no-such-model"), stream=True)),
        "bad": failure(lambda: ask(target, temperature=9)),
        "key": failure(lambda: ask(target.but(key="sk-wrong"))),
        "retrieve": failure(lambda: connect(target).responses.retrieve("resp_no/such")),
    }


def cancel(target: Target) -> Any:
    endless: Any = {"format": {"type": "json_schema", "name": "numbers", "schema": INPUTS["endless_schema"]}}
    found = connect(target).responses.create(
        model=target.model, input=INPUTS["question"], text=endless, stream=True, max_output_tokens=8000
    )
    first = next(event for event in found if event.type == "response.output_text.delta")
    found.close()
    return {"first": first.delta}


def stored(target: Target) -> Any:
    """Kept, read again with its input, continued, deleted."""
    client = connect(target)
    answer = client.responses.create(model=target.model, input=INPUTS["question"], temperature=0)
    again = client.responses.retrieve(answer.id)
    items = [one.type for one in client.responses.input_items.list(answer.id)]
    client.responses.delete(answer.id)
    return {
        "text": again.output_text,
        "items": items,
        "deleted": failure(lambda: client.responses.retrieve(answer.id)),
    }


def broken_stream(target: Target) -> Any:
    """The API has an event of its own for a response that fails after its beginning."""
    seen: list[str] = []
    failed: list[Any] = []

    def read() -> None:
        for event in connect(target).responses.create(model=target.model, input=INPUTS["question"], stream=True):
            if event.type == "response.output_text.delta":
                seen.append(event.delta)
            if event.type == "response.failed":
                failed.append(event.response.error)

    raised = failure(read)
    if failed:
        raised = {"kind": ["APIError"], "message": failed[0].message}
    return {**raised, "text": "".join(seen), "api_error": "APIError"}


main(
    "openai",
    {
        scenario.__name__: scenario
        for scenario in (
            *(chat, stream, stream_helper, tools, tools_stream, structured, errors, cancel, stored, broken_stream),
        )
    },
)
