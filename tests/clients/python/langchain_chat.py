"""`langchain-openai` and `langchain-ollama`: which of them, the argument says."""

from __future__ import annotations

import sys
from typing import Any, Literal

import pydantic
from common import INPUTS, TOOL, Target, failure, main
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

WITH = sys.argv[1]


class Trip(pydantic.BaseModel):
    """Where to, and for how long. Closed: a small model fills an open object with names of its own."""

    model_config = pydantic.ConfigDict(extra="forbid")
    city: Literal["Paris", "Rome"]
    days: int = pydantic.Field(ge=1, le=9)


def connect(target: Target, **more: Any) -> Any:
    if WITH == "langchain-openai":
        from langchain_openai import ChatOpenAI

        found: dict[str, Any] = {"max_retries": 0, "stream_usage": True, **more}
        key = pydantic.SecretStr(target.key)
        return ChatOpenAI(model=target.model, base_url=f"{target.url}/v1", api_key=key, temperature=0, **found)
    from langchain_ollama import ChatOllama

    headers = {"headers": {"Authorization": f"Bearer {target.key}"}}
    return ChatOllama(model=target.model, base_url=target.url, client_kwargs=headers, temperature=0, **more)


def whole(answer: Any, text: str | None = None) -> dict[str, Any]:
    about = answer.response_metadata
    return {
        "text": answer.text if text is None else text,
        "finish": about.get("finish_reason") or about.get("done_reason"),
        "tokens_in": answer.usage_metadata["input_tokens"],
        "tokens_out": answer.usage_metadata["output_tokens"],
    }


def chat(target: Target) -> Any:
    return whole(connect(target).invoke(INPUTS["question"]))


def stream(target: Target) -> Any:
    parts = list(connect(target).stream(INPUTS["question"]))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return {**whole(total), "pieces": len([part for part in parts if part.text])}


async def stream_async(target: Target) -> Any:
    parts = [part async for part in connect(target).astream(INPUTS["question"])]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return {**whole(total), "pieces": len([part for part in parts if part.text])}


def chat_batch(target: Target) -> Any:
    """Three at once; all of them say the same."""
    answers = connect(target).batch([INPUTS["question"]] * 3)
    return whole(answers[0], answers[0].text if len({one.text for one in answers}) == 1 else "they differ")


def tools(target: Target) -> Any:
    """Ollama's API cannot demand a call: where the model does without, one is made up to go on."""
    forced = {"tool_choice": "any"} if WITH == "langchain-openai" else {}
    question = HumanMessage(INPUTS["tool_question"])
    first = said = connect(target).bind_tools([TOOL], **forced).invoke([question])
    if not first.tool_calls:
        made_up = {"name": INPUTS["tool_name"], "args": {"city": "Rome", "days": 1}, "id": "call_1"}
        said = AIMessage("", tool_calls=[made_up])
    call = said.tool_calls[0]
    limit: Any = {"max_tokens": 60} if WITH == "langchain-openai" else {"num_predict": 60}
    again = connect(target, **limit).bind_tools([TOOL])
    answer = again.invoke([question, said, ToolMessage(INPUTS["tool_result"], tool_call_id=call["id"])])
    return {
        "name": call["name"],
        "id": call["id"],
        "arguments": call["args"],
        "calls": len(first.tool_calls),
        "may_do_without": not forced,
        "finish": whole(first)["finish"],
        "text": answer.text,
    }


def structured(target: Target) -> Any:
    found = connect(target).with_structured_output(Trip, method="json_schema").invoke(INPUTS["tool_question"])
    return {"value": found.model_dump()}


def structured_dict(target: Target) -> Any:
    schema = {"title": "Trip", "description": "Where to", **INPUTS["schema"]}
    return {
        "value": connect(target).with_structured_output(schema, method="json_schema").invoke(INPUTS["tool_question"])
    }


def errors(target: Target) -> Any:
    return {
        "unknown": failure(lambda: connect(target.but(model="no-such-model")).invoke(INPUTS["question"])),
        "unknown_stream": failure(lambda: list(connect(target.but(model="no-such-model")).stream(INPUTS["question"]))),
        "bad": failure(lambda: connect(target, top_p=9).invoke(INPUTS["question"])),
        "key": failure(lambda: connect(target.but(key="sk-wrong")).invoke(INPUTS["question"])),
    }


def cancel(target: Target) -> Any:
    if WITH == "langchain-openai":
        form: Any = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": INPUTS["endless_schema"]}}
        found = connect(target, max_tokens=8000).stream(INPUTS["question"], response_format=form)
    else:
        found = connect(target).stream(INPUTS["question"], format=INPUTS["endless_schema"])
    first = next(part for part in found if part.text)
    found.close()
    return {"first": first.text}


def embeddings(target: Target) -> Any:
    if WITH == "langchain-openai":
        from langchain_openai import OpenAIEmbeddings

        key = pydantic.SecretStr(target.key)
        # Without check_embedding_ctx_length=False it fetches OpenAI's tokenizer and sends token ids.
        vectors: Any = OpenAIEmbeddings(
            model=target.model, base_url=f"{target.url}/v1", api_key=key, check_embedding_ctx_length=False
        )
    else:
        from langchain_ollama import OllamaEmbeddings

        headers = {"headers": {"Authorization": f"Bearer {target.key}"}}
        vectors = OllamaEmbeddings(model=target.model, base_url=target.url, client_kwargs=headers)
    return {"vectors": vectors.embed_documents(INPUTS["texts"])}


main(
    WITH,
    {
        scenario.__name__: scenario
        for scenario in (
            *(chat, stream, stream_async, chat_batch, tools, structured, structured_dict, errors, cancel, embeddings),
        )
    },
)
