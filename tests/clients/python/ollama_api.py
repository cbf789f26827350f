"""The `ollama` package: chat, generate, embed, and the questions about models."""

from __future__ import annotations

import json
from typing import Any

import ollama
from common import INPUTS, MESSAGES, TOOL, TOOL_MESSAGES, Target, failure, main

GREEDY = {"temperature": 0}


def connect(target: Target) -> ollama.Client:
    return ollama.Client(host=target.url, headers={"Authorization": f"Bearer {target.key}"}, timeout=60)


def whole(answer: Any, text: str) -> dict[str, Any]:
    return {
        "text": text,
        "finish": answer.done_reason,
        "tokens_in": answer.prompt_eval_count,
        "tokens_out": answer.eval_count,
        "same_id": answer.done and answer.total_duration > 0,
    }


def chat(target: Target) -> Any:
    answer = connect(target).chat(target.model, MESSAGES, options=GREEDY)
    return whole(answer, answer.message.content)


def stream(target: Target) -> Any:
    parts = list(connect(target).chat(target.model, MESSAGES, options=GREEDY, stream=True))
    pieces = [part.message.content for part in parts if part.message.content]
    return {**whole(parts[-1], "".join(pieces)), "pieces": len(pieces)}


async def stream_async(target: Target) -> Any:
    client = ollama.AsyncClient(host=target.url, headers={"Authorization": f"Bearer {target.key}"})
    parts = [part async for part in await client.chat(target.model, MESSAGES, options=GREEDY, stream=True)]
    pieces = [part.message.content for part in parts if part.message.content]
    return {**whole(parts[-1], "".join(pieces)), "pieces": len(pieces)}


def chat_generate(target: Target) -> Any:
    answer = connect(target).generate(target.model, INPUTS["question"], options=GREEDY)
    return whole(answer, answer.response)


def stream_generate(target: Target) -> Any:
    parts = list(connect(target).generate(target.model, INPUTS["question"], options=GREEDY, stream=True))
    pieces = [part.response for part in parts if part.response]
    return {**whole(parts[-1], "".join(pieces)), "pieces": len(pieces)}


def _round_trip(target: Target, message: Any, finish: str) -> Any:
    """The API cannot demand a call: where the model does without, one is made up to go on."""
    calls = message.tool_calls or []
    if not calls:
        function = {"name": INPUTS["tool_name"], "arguments": {"city": "Rome", "days": 1}}
        message = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    result = {"role": "tool", "tool_name": INPUTS["tool_name"], "content": INPUTS["tool_result"]}
    answer = connect(target).chat(
        target.model, [*TOOL_MESSAGES, message, result], tools=[TOOL], options={**GREEDY, "num_predict": 60}
    )
    return {
        "name": calls[0].function.name if calls else None,
        "id": "none in this API",
        "arguments": dict(calls[0].function.arguments) if calls else None,
        "calls": len(calls),
        "may_do_without": True,
        "finish": finish,
        "text": answer.message.content,
    }


def tools(target: Target) -> Any:
    answer = connect(target).chat(target.model, TOOL_MESSAGES, tools=[TOOL], options=GREEDY)
    return _round_trip(target, answer.message, answer.done_reason)


def tools_stream(target: Target) -> Any:
    parts = list(connect(target).chat(target.model, TOOL_MESSAGES, tools=[TOOL], options=GREEDY, stream=True))
    found = [part.message for part in parts if part.message.tool_calls]
    return _round_trip(target, found[0] if found else parts[0].message, parts[-1].done_reason)


def structured(target: Target) -> Any:
    answer = connect(target).chat(target.model, TOOL_MESSAGES, format=INPUTS["schema"], options=GREEDY)
    return {"value": json.loads(answer.message.content)}


def structured_generate(target: Target) -> Any:
    answer = connect(target).generate(
        target.model, INPUTS["tool_question"], format=INPUTS["schema"], options=GREEDY, stream=True
    )
    return {"value": json.loads("".join(part.response for part in answer))}


def errors(target: Target) -> Any:
    return {
        "unknown": failure(lambda: connect(target).chat("no-such-model", MESSAGES)),
        "unknown_stream": failure(lambda: list(connect(target).chat("no-such-model", MESSAGES, stream=True))),
        "bad": failure(lambda: connect(target).chat(target.model, MESSAGES, options={"temperature": 99})),
        "key": failure(lambda: connect(target.but(key="sk-wrong")).chat(target.model, MESSAGES)),
        "retrieve": failure(lambda: connect(target).show("no/such")),
    }


def cancel(target: Target) -> Any:
    found = connect(target).chat(target.model, MESSAGES, format=INPUTS["endless_schema"], stream=True)
    first = next(part for part in found if part.message.content)
    found.close()
    return {"first": first.message.content}


def models(target: Target) -> Any:
    client = connect(target)
    client.chat(target.model, MESSAGES, options={"num_predict": 1})
    shown = client.show(target.model)
    copied = client.copy("demo", "copied:by-python").status
    answer = client.chat("copied:by-python", MESSAGES, options={"num_predict": 1})
    listed = "copied:by-python" in {one.model for one in client.list().models}
    deleted = client.delete("copied:by-python").status
    return {
        "copy": [copied, answer.eval_count, listed, deleted],
        "ids": [one.model for one in client.list().models],
        "retrieved": target.model if "completion" in shown.capabilities else shown.capabilities,
        "running": [one.model for one in client.ps().models],
    }


def embeddings(target: Target) -> Any:
    found = connect(target).embed(target.model, INPUTS["texts"])
    return {"vectors": [list(vector) for vector in found.embeddings], "tokens_in": found.prompt_eval_count}


def broken_stream(target: Target) -> Any:
    pieces: list[str] = []

    def read() -> None:
        for part in connect(target).chat(target.model, MESSAGES, stream=True):
            pieces.append(part.message.content)

    raised = failure(read)
    return {**raised, "text": "".join(pieces), "api_error": "ResponseError"}


main(
    "ollama",
    {
        scenario.__name__: scenario
        for scenario in (
            *(chat, stream, stream_async, chat_generate, stream_generate, tools, tools_stream, structured),
            *(structured_generate, errors, cancel, models, embeddings, broken_stream),
        )
    },
)
