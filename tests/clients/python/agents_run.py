"""The `openai-agents` package: an agent with a tool, over the Responses API and over chat completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import agents
import openai
import pydantic
from common import INPUTS, Target, failure, main

agents.set_tracing_disabled(True)


Days = Annotated[int, pydantic.Field(ge=1, le=9)]


class Trip(pydantic.BaseModel):
    city: Literal["Paris", "Rome"]
    days: Days


def model_of(target: Target, api: str) -> Any:
    client = openai.AsyncOpenAI(base_url=f"{target.url}/v1", api_key=target.key, max_retries=0)
    kind = agents.OpenAIResponsesModel if api == "responses" else agents.OpenAIChatCompletionsModel
    return kind(model=target.model, openai_client=client)


def agent_of(target: Target, api: str, **more: Any) -> Any:
    settings = agents.ModelSettings(
        temperature=0, tool_choice=more.pop("tool_choice", None), max_tokens=200, include_usage=True
    )
    return agents.Agent(name="guide", model=model_of(target, api), model_settings=settings, **more)


def whole(ran: Any) -> dict[str, Any]:
    usage = ran.context_wrapper.usage
    return {
        "text": ran.final_output,
        "finish": "stop",
        "tokens_in": usage.input_tokens,
        "tokens_out": usage.output_tokens,
    }


async def _chat(target: Target, api: str) -> Any:
    return whole(await agents.Runner.run(agent_of(target, api), INPUTS["question"]))


async def _stream(target: Target, api: str) -> Any:
    running = agents.Runner.run_streamed(agent_of(target, api), INPUTS["question"])
    pieces = [
        event.data.delta
        async for event in running.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return {**whole(running), "pieces": len(pieces), "same_id": "".join(pieces) == running.final_output}


async def _tools(target: Target, api: str) -> Any:
    """To the end: the call, the function, the text with its result."""
    called: list[dict[str, Any]] = []

    def weather(city: Literal["Paris", "Rome"], days: Days) -> str:
        called.append({"city": city, "days": days})
        return str(INPUTS["tool_result"])

    # The runner takes `required` back after the first call.
    tool = agents.function_tool(
        weather, name_override=INPUTS["tool_name"], description_override=INPUTS["tool_description"]
    )
    agent = agent_of(target, api, tools=[tool], tool_choice="required")
    ran = await agents.Runner.run(agent, INPUTS["tool_question"], max_turns=4)
    return {
        "name": INPUTS["tool_name"],
        "id": "the package's own affair",
        "arguments": called[0],
        "calls": len(called),
        "finish": "stop",
        "text": ran.final_output,
    }


async def _structured(target: Target, api: str) -> Any:
    ran = await agents.Runner.run(agent_of(target, api, output_type=Trip), INPUTS["tool_question"])
    return {"value": ran.final_output.model_dump()}


def _errors(target: Target, api: str) -> Any:
    def ask(target: Target) -> Any:
        return agents.Runner.run_sync(agent_of(target, api), INPUTS["question"])

    return {
        "unknown": failure(lambda: ask(target.but(model="no-such-model"))),
        "key": failure(lambda: ask(target.but(key="sk-wrong"))),
    }


SCENARIOS = {"chat": _chat, "stream": _stream, "tools": _tools, "structured": _structured, "errors": _errors}


def over(api: str, name: str) -> Any:
    return lambda target: SCENARIOS[name](target, api)


main(
    "openai-agents",
    {f"{name}_{api}": over(api, name) for name in SCENARIOS for api in ("responses", "completions")},
)
