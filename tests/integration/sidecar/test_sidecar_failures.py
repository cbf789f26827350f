"""Failures of providers behind LiteLLM, before the answer and in its stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exo_node.routing.call import UNSUPPORTED_THERE
from tests.integration.sidecar_stage import KEY, MARKS, MESSAGES, STANDINS, Stage, text_of
from tests.standins import Script

pytestmark = MARKS


@pytest.mark.parametrize(
    ("path", "body"),
    [("embeddings", {"input": "a"}), ("images/generations", {"prompt": "a"}), ("moderations", {"input": "a"}),
     ("audio/speech", {"input": "a", "voice": "alloy"}), ("chat/completions", {"messages": MESSAGES})],
)  # fmt: skip
@pytest.mark.parametrize(
    ("status", "cause"), [(401, "auth"), (404, "not_found"), (429, "rate_limited"), (500, "server")]
)
async def test_openais_failures_of_every_kind(stage: Stage, path: str, body: Any, status: int, cause: str) -> None:
    """Asked once only, and told with its own cause and Retry-After: a 404 is no bad request."""
    wait = "7" if status == 429 else None
    stage.standins["openai"].queue.append(Script(status=status, message="no", retry_after=wait))
    got, headers, answer = await stage.post("gpt", path, body)
    assert (got, headers.get("x-exo-cause"), headers.get("Retry-After")) == (status, cause, wait), answer
    assert len(stage.standins["openai"].requests) == 1


async def test_retry_after_of_a_reranker(stage: Stage) -> None:
    """How long to wait survives, also where LiteLLM's own error has lost the provider's answer."""
    stage.standins["cohere"].queue.append(Script(status=429, retry_after="7"))
    status, headers, _ = await stage.post("cohere", "rerank", {"query": "cats", "documents": ["dogs"]})
    assert (status, headers.get("Retry-After")) == (429, "7")


@pytest.mark.parametrize(
    ("script", "status", "cause"),
    [
        (Script(status=429, retry_after="7"), 429, "rate_limited"),
        (Script(status=500), 500, "server"),
        (Script(status=503), 503, "server"),
        (Script(status=529), 500, "server"),
        (Script(status=404, message="no such model"), 404, "not_found"),
        (Script(status=403), 403, "auth"),
        (Script(status=400, message="bad temperature"), 400, "bad_request"),
        (Script(status=400, message="prompt is too long: 300000 tokens > 200000 maximum"), 400, "context"),
        (Script(status=502, body=b"<html>Bad gateway</html>"), 502, "server"),
        (Script(reset_after=-1), 502, "reset"),
        (Script(malformed_after=0), 502, "malformed"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_failures_before_the_answer(
    stage: Stage, script: Script, status: int, cause: str, streamed: bool
) -> None:
    """What a provider does wrong before its first word is an error with its status and cause, asked once only."""
    stage.standins["anthropic"].queue.append(script)
    got, headers, body = await stage.chat("claude", stream=streamed)
    if streamed and cause == "malformed":
        cause = "eof"  # LiteLLM passes over an event that is no JSON; what follows is missed
    assert (got, headers.get("x-exo-cause"), body["error"]["cause"]) == (status, cause, cause), body
    assert headers.get("Retry-After") == script.retry_after
    assert KEY not in json.dumps(body)
    assert len(stage.standins["anthropic"].requests) == 1


@pytest.mark.parametrize(
    ("name", "cause"),
    [("wrong-key", "auth"), ("refused", "refused"), ("no-dns", "dns"), ("nobody", "not_found"), ("?", "unavailable")],
)
async def test_unreachable(stage: Stage, name: str, cause: str) -> None:
    """A wrong key, a closed port, an unknown host, provider or deployment are told apart."""
    _, headers, body = await stage.chat(name)
    assert (headers["x-exo-cause"], body["error"]["cause"]) == (cause, cause), body
    assert "\n" not in body["error"]["message"]


@pytest.mark.parametrize(
    ("name", "script", "cause"),
    [
        ("claude", Script(eof_after=3), "eof"),
        ("claude", Script(reset_after=3), "reset"),
        ("claude", Script(error_after=3, message="overloaded"), "server"),
        ("gpt", Script(eof_after=3), "eof"),
        ("vllm", Script(eof_after=3), "eof"),
        ("vllm", Script(malformed_after=3), "malformed"),
        ("gemini", Script(eof_after=3), "eof"),
        ("llama", Script(eof_after=3), "eof"),
        ("llama", Script(error_after=3), "malformed"),  # LiteLLM looks for a message in it
    ],
)
async def test_failures_in_the_stream(stage: Stage, name: str, script: Script, cause: str) -> None:
    """A stream that breaks ends with an error event, never with an invented finish_reason or [DONE]."""
    standin = stage.standins[STANDINS.get(name, name)]
    standin.queue.append(script)
    events = await stage.stream(name)
    assert text_of(events) != ""
    assert [c["finish_reason"] for e in events for c in e.get("choices", ()) if c["finish_reason"]] == []
    assert events[-1]["error"]["cause"] == cause, events[-1]


ODD_PART = [{"role": "user", "content": [{"type": "no such part"}]}]
NO_CALL = [*MESSAGES, {"role": "tool", "tool_call_id": "never called", "content": "r"}]


async def test_token_ids_are_no_fault_of_whoever_takes_texts(stage: Stage) -> None:
    """An input that LiteLLM does not hand on to this provider: one that takes token ids may be asked."""
    status, headers, answer = await stage.post("llama", "embeddings", {"input": [1, 2, 3]})
    assert (status, headers.get("x-exo-cause"), answer["error"]["code"]) == (400, "unavailable", UNSUPPORTED_THERE), (
        answer
    )
    assert stage.standins["ollama"].requests == []


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("name", "body"),
    [("claude", {"messages": ODD_PART}), ("gemini", {"messages": ODD_PART}), ("gemini", {"messages": NO_CALL}),
     ("claude", {"messages": MESSAGES, "tools": [{"type": "function", "function": {}}]}),
     ("claude", {"messages": MESSAGES, "response_format": {"type": "json_schema"}})],
)  # fmt: skip
async def test_what_cannot_be_sent_is_no_fault_of_the_providers(
    stage: Stage, name: str, body: Any, streamed: bool
) -> None:
    """A request that LiteLLM cannot put into the provider's form: another backend may take it, and none is to blame."""
    status, headers, answer = await stage.post(name, "chat/completions", {**body, "stream": streamed})
    assert (status, headers.get("x-exo-cause"), answer["error"]["code"]) == (400, "unavailable", UNSUPPORTED_THERE), (
        answer
    )
    assert stage.standins["anthropic" if name == "claude" else "gemini"].requests == []


@pytest.mark.parametrize("name", ["claude", "gemini", "llama"])
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
async def test_an_answer_that_is_no_json(stage: Stage, name: str, path: str) -> None:
    """The same for chats and completions."""
    stage.standins[{"claude": "anthropic", "llama": "ollama"}.get(name, name)].queue.append(Script(malformed_after=0))
    asked = {"messages": MESSAGES} if path == "chat/completions" else {"prompt": "Hello there"}
    status, headers, body = await stage.post(name, path, asked)
    assert (status, headers.get("x-exo-cause")) == (502, "malformed"), body


@pytest.mark.parametrize("name", ["claude", "gpt", "gemini", "llama"])
async def test_a_cut_text_completion(stage: Stage, name: str) -> None:
    """Of a completion, too, the end that the provider never told is none."""
    standin = stage.standins[STANDINS.get(name, name)]
    standin.queue.append(Script(eof_after=3))
    events = await stage.stream(name, "completions", prompt="Hello there")
    assert "".join(c["text"] for e in events for c in e.get("choices", ())) != ""
    assert [c["finish_reason"] for e in events for c in e.get("choices", ()) if c["finish_reason"]] == []
    assert events[-1]["error"]["cause"] == "eof", events[-1]
