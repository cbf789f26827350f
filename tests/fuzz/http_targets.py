"""Bodies of requests in every dialect, through what reads them: a decoded request or an error of ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from hypothesis import strategies as st

from exo_node.api.batching.lines import LineError, read_line
from exo_node.api.calls import Context, make_call
from exo_node.api.dialects import anthropic_request, ollama, responses_request
from exo_node.api.dialects.anthropic_request import decode_prompt
from exo_node.api.errors import error_body
from exo_node.api.exo.bench import bench_body
from exo_node.api.exo.shapes import wanted_instance
from exo_node.api.fields import parse_object
from exo_node.api.openai_request import parse_chat, parse_completion
from exo_node.api.schemas import anthropic, openai, responses
from exo_node.api.vision import as_chat
from exo_node.config import Settings
from exo_node.errors import ExoError
from exo_node.models.toolformats.lark import of_answer, styled
from exo_node.models.unheld_schema import unheld
from exo_node.routing.call import CallKind
from tests.fuzz.cases import Finding, Target
from tests.fuzz.inputs import as_json, broken, mutated
from tests.fuzz.schemas import values

SETTINGS = Settings(home=Path(tempfile.gettempdir()) / "exo-fuzz-none")
CONTEXT = Context(id="chatcmpl-1", deadline=1e12)
GIVEN = responses_request.Given(id="resp_" + "0" * 32, created=1)
SCHEMA = {
    "type": "object", "properties": {"city": {"type": "string", "pattern": "^[a-z]+$"}, "n": {"minimum": 3}},
    "required": ["city"], "additionalProperties": False, "$defs": {"x": {"anyOf": [{"type": "integer"},
    {"$ref": "#"}]}},
}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "get", "description": "d", "parameters": SCHEMA, "strict": True}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get", "arguments": '{"city": "a"}'}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CHAT: dict[str, Any] = {
    "model": "demo", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.5, "top_p": 0.9,
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, IMAGE], "name": "u"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "5"},
    ],
    "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get"}}, "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
    "n": 2, "stop": ["x"], "max_tokens": 5, "logprobs": True, "top_logprobs": 3, "logit_bias": {"5": -100}, "seed": 1,
    "user": "u", "reasoning_effort": "low", "exo": {"max_cost": 1, "failover": ["a"]}, "provider": "openai",
    "chat_template_kwargs": {"enable_thinking": False}, "extra_body": {"top_k": 5}, "service_tier": "auto",
}  # fmt: skip
COMPLETION: dict[str, Any] = {
    "model": "demo", "prompt": ["a", "b"], "echo": True, "best_of": 2, "n": 1, "logprobs": 2, "suffix": "z",
    "max_tokens": 3, "stop": "\n", "structured_outputs": {"regex": "a+"}, "guided_choice": ["a", "b"],
}  # fmt: skip
ANTHROPIC: dict[str, Any] = {
    "model": "claude", "max_tokens": 5, "system": [{"type": "text", "text": "s",
    "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image", "source": {"type": "base64",
         "media_type": "image/png", "data": "iVBORw0KGgo="}}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "h", "signature": "s"},
         {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {"city": "a"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text",
         "text": "5"}], "is_error": True}]},
    ],
    "tools": [{"name": "get", "description": "d", "input_schema": SCHEMA}], "tool_choice": {"type": "tool",
    "name": "get"},
    "thinking": {"type": "enabled", "budget_tokens": 1024}, "stop_sequences": ["x"], "metadata": {"user_id": "u"},
    "top_k": 4, "stream": True, "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
}  # fmt: skip
RESPONSES: dict[str, Any] = {
    "model": "demo", "instructions": "i", "stream": True, "store": False, "background": False,
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "t"}, {"type": "input_image",
         "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}],
        "encrypted_content": "e"},
        {"type": "function_call", "call_id": "call_1", "name": "get", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "5"}, {"type": "item_reference", "id": "msg_1"},
    ],
    "tools": [{"type": "function", "name": "get", "parameters": SCHEMA}], "tool_choice": {"type": "function",
    "name": "get"},
    "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}, "verbosity": "low"},
    "metadata": {"a": "b"},
    "reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"], "truncation": "auto",
    "max_output_tokens": 20, "top_logprobs": 2, "parallel_tool_calls": True, "previous_response_id": "resp_1",
}  # fmt: skip
OLLAMA: dict[str, Any] = {
    "model": "demo", "stream": False, "keep_alive": "5m", "format": SCHEMA, "think": "low", "raw": True, "prompt": "p",
    "messages": [{"role": "user", "content": "c", "images": ["iVBORw0KGgo="]}, {"role": "assistant", "content": "",
                 "tool_calls": [{"function": {"name": "get", "arguments": {"city": "a"}}}]},
                 {"role": "tool", "content": "5", "tool_name": "get"}],
    "options": {"temperature": 0.1, "num_predict": -1, "repeat_penalty": 1.1, "stop": ["x"], "top_k": 3, "seed": 5,
                "repeat_last_n": 0, "mirostat": 0, "num_ctx": 5}, "tools": [TOOL], "logprobs": True, "top_logprobs": 2,
}  # fmt: skip
OTHERS: dict[CallKind, dict[str, Any]] = {
    "embedding": {"model": "m", "input": ["a", [1, 2]], "encoding_format": "base64", "dimensions": 4},
    "rerank": {"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True},
    "image": {"model": "m", "prompt": "p", "n": 1, "size": "256x256"},
    "speech": {"model": "m", "input": "i", "voice": "alloy"},
    "transcription": {"model": "m", "prompt": "p", "language": "en", "temperature": 0},
    "moderation": {"model": "m", "input": ["a", {"type": "text", "text": "t"}]},
}
EXO: dict[str, Any] = {
    "model": "demo", "messages": [{"role": "user", "content": "hi"}], "use_prefix_cache": False, "max_tokens": 3,
    "instance": {"MlxRingInstance": {"instanceId": "i", "shardAssignments": {"modelId": "m", "runnerToShard": {
        "r": {"PipelineShardMetadata": {"modelCard": {"modelId": "m"}, "startLayer": 0, "endLayer": 4}}},
        "nodeToRunner": {"n": "r"}}}},
}  # fmt: skip


def _chat(body: Mapping[str, Any]) -> None:
    parse_chat(body, "id", SETTINGS)


def _anthropic(body: Mapping[str, Any]) -> None:
    decoded = anthropic_request.decode(body, "msg_1")
    _chat(make_call("chat", decoded.body, CONTEXT).body)


def _responses(body: Mapping[str, Any]) -> None:
    asked = responses_request.decode(body, GIVEN)
    as_json(asked.echo)
    _chat(make_call("chat", asked.chat, CONTEXT).body)


def _ollama(body: Mapping[str, Any]) -> None:
    asked = ollama.decode_chat(body)
    for local in (True, False):
        ollama.addressed(asked, "demo", local=local)
    if asked.kind is not None:
        make_call(asked.kind, ollama.addressed(asked, "demo", local=True), CONTEXT)


def _ollama_generate(body: Mapping[str, Any]) -> None:
    asked = ollama.decode_generate(body, 100)
    if asked.kind is not None:
        make_call(asked.kind, ollama.addressed(asked, "demo", local=True), CONTEXT)


def _line(body: Mapping[str, Any]) -> None:
    outer = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    try:
        make_call("chat", read_line(as_json(outer), "/v1/chat/completions").body, CONTEXT)
    except LineError as error:
        as_json(error.shown())


def _grammar(body: Mapping[str, Any]) -> None:
    """What is done with a schema before its own process compiles it."""
    schema = body.get("schema")
    if isinstance(schema, dict):
        unheld(schema)
        styled(schema)
    for request in parse_chat({**CHAT, "n": 1, "exo": None, **body}, "id", SETTINGS).requests:
        if request.grammar is not None:
            of_answer(request.grammar)


def _call(kind: CallKind) -> Callable[[Mapping[str, Any]], None]:
    def read(body: Mapping[str, Any]) -> None:
        made = make_call(kind, body, CONTEXT)
        if kind == "chat":
            _chat(made.body)
        elif kind == "completion":
            parse_completion(made.body, "id", SETTINGS)

    return read


# What a body is, an example with everything in it, who reads it.
READERS: tuple[tuple[Any, dict[str, Any], Callable[[Mapping[str, Any]], Any]], ...] = (
    (openai.ChatRequest, CHAT, _call("chat")),
    (openai.ChatRequest, CHAT, _line),
    (None, {**CHAT, "schema": SCHEMA}, _grammar),
    (openai.CompletionRequest, COMPLETION, _call("completion")),
    (anthropic.MessagesRequest, ANTHROPIC, _anthropic),
    (anthropic.MessagesRequest, ANTHROPIC, decode_prompt),
    (responses.ResponseRequest, RESPONSES, _responses),
    (None, OLLAMA, _ollama),
    (None, OLLAMA, _ollama_generate),
    (None, EXO, wanted_instance),
    (None, EXO, bench_body),
    (None, {"prompt": "p", "image": "iVBORw0KGgo=", "image_url": ["http://x/y"], "detail": "low"}, as_chat),
    *((openai.REQUESTS[kind], body, _call(kind)) for kind, body in OTHERS.items()),
)


def _shaped(shape: Any, sound: dict[str, Any]) -> st.SearchStrategy[Any]:
    if shape is None:
        return st.just(sound)
    (schema,), tables = msgspec.json.schema_components([shape])
    return st.one_of(st.just(sound), values(schema, tables), values(schema, tables).map(lambda made: {**sound, **made}))


def _examples() -> st.SearchStrategy[Any]:
    each = [st.tuples(st.just(i), _shaped(shape, sound)) for i, (shape, sound, _) in enumerate(READERS)]
    return st.one_of(each)


Case = tuple[int, bytes]


def _spread(example: Any, random: Random) -> Iterator[Case]:
    reader, body = example
    yield reader, as_json(body)
    while True:
        if random.random() < 0.85:
            yield reader, as_json(mutated(body, random, 3))
        else:
            yield reader, broken(as_json(body), random)


def _read(world: Any, case: Case) -> None:
    reader, data = case
    try:
        READERS[reader][2](parse_object(data))
    except ExoError as error:
        if not 400 <= error.status < 500:
            raise Finding(f"a {error.status} for a body: {type(error).__name__}") from error
        as_json(error_body(error))
        raise


TARGETS = (Target(name="http.bodies", share=230, example=_examples(), spread=_spread, check=_read, each=20),)
