"""LiteLLM's workers against stand-in providers: real processes, unix sockets, each provider's own wire format."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from exo_node.routing.call import Attempt, Call, Caller, CallRecord, UpstreamError
from exo_node.routing.callbacks.events import summary
from exo_node.routing.callbacks.names import LITELLM_CALLBACKS, POSTED_CALLBACKS
from exo_node.routing.deployment import Deployment
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.service import LiteLLMService
from exo_node.routing.upstream.sidecar_upstream import SidecarUpstream
from exo_node.types import Usage
from tests.standins import Script, Standin, no_such_host_url, refused_url, standin

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason="exo-node[litellm] is not installed"),
]

KEY = "sk-planted-0123456789abcdef"
MESSAGES = [{"role": "user", "content": "Hello there"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}

# Written into sitecustomize.py of the workers: every address that Python code of theirs asks a socket for.
GUARD = """
import os, sys
def _hook(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        said = f"connect {args[1][0]}:{args[1][1]}"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        said = f"{event} {args[0]}"
    else:
        return
    fd = os.open(@LOG@, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (said + "\\n").encode())
    os.close(fd)
sys.addaudithook(_hook)
"""


@dataclass
class Stage:
    """The service, the stand-ins behind it, and the file in which the workers' network use is written down."""

    service: LiteLLMService
    standins: dict[str, Standin]
    network: Path
    home: Path
    first_network: list[str]

    async def post(self, deployment: str, path: str, body: Any) -> tuple[int, Any, Any]:
        """(status, headers, body: JSON where it is, else bytes)."""
        async with self.service.worker() as endpoint:
            connector = aiohttp.UnixConnector(endpoint.socket)
            async with aiohttp.ClientSession(connector=connector) as session:
                how = {"data": body} if isinstance(body, aiohttp.FormData) else {"json": body}
                headers = {"x-exo-deployment": deployment}
                async with session.post(f"{endpoint.base_url}/{path}", headers=headers, **how) as response:
                    raw = await response.read()
                    is_json = response.content_type == "application/json"
                    return response.status, response.headers, json.loads(raw) if is_json else raw

    async def chat(self, deployment: str, **more: Any) -> tuple[int, Any, Any]:
        return await self.post(deployment, "chat/completions", {"messages": MESSAGES, **more})

    async def stream(self, deployment: str, path: str = "chat/completions", **more: Any) -> list[dict[str, Any]]:
        """Events of a stream; `[DONE]` as {"done": True}."""
        body = {"stream": True, "stream_options": {"include_usage": True}, **more}
        if path == "chat/completions":
            body.setdefault("messages", MESSAGES)
        status, headers, raw = await self.post(deployment, path, body)
        assert (status, headers["Content-Type"]) == (200, "text/event-stream"), raw
        lines = [line.removeprefix(b"data: ") for line in raw.split(b"\n\n") if line]
        return [{"done": True} if line == b"[DONE]" else json.loads(line) for line in lines]


def deployment(name: str, model: str, **params: Any) -> Deployment:
    provider, _, rest = model.partition("/")
    return Deployment(
        id=name, model_name=name, litellm_model=model, provider=provider, upstream_model=rest, params=params
    )


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content") or "" for e in events for c in e.get("choices", ()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    home = tmp_path_factory.mktemp("home")
    guard = tmp_path_factory.mktemp("guard")
    network = guard / "network.txt"
    network.touch()
    (guard / "sitecustomize.py").write_text(GUARD.replace("@LOG@", repr(str(network))))
    names = ("anthropic", "openai", "gemini", "ollama", "cohere", "azure")
    standins = {name: standin(name) for name in names}
    standins["anthropic"].key = KEY
    for one in standins.values():
        await one.start()
    url = {name: one.url for name, one in standins.items()}
    deployments = [
        deployment("claude", "anthropic/claude-sonnet-4-5", api_key=KEY, api_base=url["anthropic"]),
        deployment("wrong-key", "anthropic/claude-sonnet-4-5", api_key="sk-wrong-987654", api_base=url["anthropic"]),
        deployment("gpt", "openai/gpt-4o", api_key=KEY, api_base=url["openai"] + "/v1"),
        deployment("gemini", "gemini/gemini-2.5-flash", api_key=KEY, api_base=url["gemini"] + "/v1beta"),
        deployment("llama", "ollama_chat/llama3", api_base=url["ollama"]),
        deployment("cohere", "cohere/rerank-v3.5", api_key=KEY, api_base=url["cohere"] + "/v2/rerank"),
        deployment("azure", "azure/dep-1", api_key=KEY, api_base=url["azure"], api_version="2024-10-21"),
        deployment("words", "openai/plain", api_key=KEY, api_base=url["openai"] + "/v1", exo_tools="prompt"),
        deployment("refused", "anthropic/claude-x", api_key=KEY, api_base=refused_url()),
        deployment("no-dns", "anthropic/claude-x", api_key=KEY, api_base=no_such_host_url()),
        deployment("nobody", "no_such_provider/x", api_key=KEY),
    ]
    service = LiteLLMService(
        home=home, environment={**os.environ, "PYTHONPATH": str(guard), "GROQ_API_KEY": KEY}, deployments=deployments
    )
    await service.start()
    assert not service.started
    stage = Stage(service, standins, network, home, [])
    try:
        await service.ready()
        stage.first_network = network.read_text().splitlines()
        yield stage
    finally:
        await service.stop()
        for one in standins.values():
            await one.stop()


@pytest.fixture(autouse=True)
def quiet(stage: Stage) -> None:
    """Each test begins with stand-ins that do what they do by themselves."""
    for one in stage.standins.values():
        one.queue.clear()
        one.requests.clear()


async def test_nothing_is_fetched(stage: Stage) -> None:
    """Neither a start nor the first call of a worker looks a name up or connects anywhere but to the provider."""
    assert stage.first_network == []
    stage.network.write_text("")
    status, _, _ = await stage.chat("claude")
    events = await stage.stream("claude")
    assert (status, events[-1]) == (200, {"done": True})
    stage.standins["ollama"].queue.append(Script(usage=False))
    await stage.stream("llama")  # its tokens are counted here
    await stage.service.facts()
    seen = set(stage.network.read_text().splitlines())
    hosts = [stage.standins[name].url.removeprefix("http://") for name in ("anthropic", "ollama")]
    assert {line for line in seen if line.startswith("connect")} == {f"connect {host}" for host in hosts}
    assert {line for line in seen if not line.startswith("connect")} <= {"socket.getaddrinfo 127.0.0.1"}


@pytest.mark.parametrize("name", ["claude", "gpt", "gemini", "llama", "azure"])
async def test_chat(stage: Stage, name: str) -> None:
    """A chat answers in OpenAI's shape, plain and streamed alike, with the provider's own usage."""
    status, _, plain = await stage.chat(name)
    assert status == 200, plain
    message = plain["choices"][0]["message"]
    assert (plain["object"], message["role"]) == ("chat.completion", "assistant")
    events = await stage.stream(name)
    assert events[-1] == {"done": True}
    assert text_of(events) == message["content"]
    assert [c["finish_reason"] for e in events for c in e.get("choices", ()) if c["finish_reason"]] == ["stop"]
    used = [e for e in events if e.get("usage")]
    assert [(e["choices"], e["usage"]["completion_tokens"]) for e in used] == [
        ([], plain["usage"]["completion_tokens"])
    ]
    assert len({e["id"] for e in events if "id" in e}) == 1


@pytest.mark.parametrize("name", ["claude", "gemini", "gpt"])
async def test_native_tools(stage: Stage, name: str) -> None:
    """Tool calls come back OpenAI-shaped from every wire format, also streamed, and finish with tool_calls."""
    said = Script(tool_calls=(("weather", {"city": "Bern"}),))
    standin = stage.standins[{"claude": "anthropic", "gpt": "openai"}.get(name, name)]
    standin.queue.extend([said, said])
    _, _, plain = await stage.chat(name, tools=[WEATHER])
    choice = plain["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]["function"]
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Bern"})
    events = await stage.stream(name, tools=[WEATHER])
    parts = [t for e in events for c in e.get("choices", ()) for t in c["delta"].get("tool_calls") or ()]
    assert "".join(t["function"].get("name") or "" for t in parts) == "weather"
    assert json.loads("".join(t["function"].get("arguments") or "" for t in parts)) == {"city": "Bern"}
    assert [c["finish_reason"] for e in events for c in e.get("choices", ()) if c["finish_reason"]] == ["tool_calls"]


async def test_vision(stage: Stage) -> None:
    """An image part is translated into the provider's own: Anthropic gets a base64 source."""
    picture = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": picture}}]
    status, _, _ = await stage.chat("claude", messages=[{"role": "user", "content": content}])
    sent = stage.standins["anthropic"].requests[-1].body["messages"][0]["content"]
    assert status == 200
    assert [part["type"] for part in sent] == ["text", "image"]
    assert sent[1]["source"]["media_type"] == "image/png"


async def test_continuation(stage: Stage) -> None:
    """A partial answer is the last assistant message; the answer holds what is new, without its blanks again."""
    partial = [*MESSAGES, {"role": "assistant", "content": "Once upon "}]
    stage.standins["anthropic"].queue.extend([Script(text=" a time"), Script(text=" a time")])
    events = await stage.stream("claude", messages=partial)
    assert text_of(events) == "a time"
    _, _, plain = await stage.chat("claude", messages=partial)
    assert plain["choices"][0]["message"]["content"] == "a time"
    last = stage.standins["anthropic"].requests[-1].body["messages"][-1]
    assert last["role"] == "assistant"


async def test_embeddings(stage: Stage) -> None:
    """Embeddings come as floats or as base64 of float32, whatever the provider can, with the same numbers."""
    numbers: dict[str, list[float]] = {}
    for name in ("gpt", "gemini", "llama"):
        _, _, floats = await stage.post(name, "embeddings", {"input": ["a b"]})
        _, _, coded = await stage.post(name, "embeddings", {"input": ["a b"], "encoding_format": "base64"})
        raw = base64.b64decode(coded["data"][0]["embedding"])
        numbers[name] = list(struct.unpack(f"<{len(raw) // 4}f", raw))
        assert floats["data"][0]["embedding"] == pytest.approx(numbers[name], rel=1e-6)
    assert all(numbers.values())


async def test_rerank(stage: Stage) -> None:
    """Rerank gives indices and scores, best first."""
    body = {"query": "cats", "documents": ["dogs bark", "cats purr"], "top_n": 2}
    status, _, answer = await stage.post("cohere", "rerank", body)
    scores = [result["relevance_score"] for result in answer["results"]]
    assert (status, scores) == (200, sorted(scores, reverse=True))


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


async def test_other_kinds(stage: Stage) -> None:
    """Text completions (plain, streamed), images, speech, transcriptions and moderations go through."""
    _, _, plain = await stage.post("gpt", "completions", {"prompt": "Hi"})
    events = await stage.stream("gpt", "completions", prompt="Hi")
    text = "".join(c["text"] for e in events for c in e.get("choices", ()))
    assert (plain["choices"][0]["text"], events[-1]) == (text, {"done": True})
    assert [e["usage"]["completion_tokens"] for e in events if e.get("usage")] == [plain["usage"]["completion_tokens"]]
    _, _, image = await stage.post("gpt", "images/generations", {"prompt": "a cat"})
    assert base64.b64decode(image["data"][0]["b64_json"]).startswith(b"\x89PNG")
    _, headers, sound = await stage.post("gpt", "audio/speech", {"input": "Hi", "voice": "alloy"})
    assert (headers["Content-Type"], sound[:3]) == ("audio/mpeg", b"ID3")
    form = aiohttp.FormData({"language": "en"})
    form.add_field("file", b"RIFFxxxx", filename="a.wav", content_type="audio/wav")
    status, _, heard = await stage.post("gpt", "audio/transcriptions", form)
    assert status == 200 and heard["text"]
    assert stage.standins["openai"].requests[-1].files["file"] == ("a.wav", b"RIFFxxxx")
    _, _, judged = await stage.post("gpt", "moderations", {"input": "Hi"})
    assert judged["results"][0]["flagged"] is False


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
        ("gemini", Script(eof_after=3), "eof"),
        ("llama", Script(eof_after=3), "eof"),
    ],
)
async def test_failures_in_the_stream(stage: Stage, name: str, script: Script, cause: str) -> None:
    """A stream that breaks ends with an error event, never with an invented finish_reason or [DONE]."""
    standin = stage.standins[{"claude": "anthropic", "gpt": "openai", "llama": "ollama"}.get(name, name)]
    standin.queue.append(script)
    events = await stage.stream(name)
    assert text_of(events) != ""
    assert [c["finish_reason"] for e in events for c in e.get("choices", ()) if c["finish_reason"]] == []
    assert events[-1]["error"]["cause"] == cause, events[-1]


async def test_usage_is_never_invented(stage: Stage) -> None:
    """A stream whose provider reports no usage has none: the adapter estimates, and says so."""
    stage.standins["openai"].queue.append(Script(usage=False))
    events = await stage.stream("gpt")
    assert events[-1] == {"done": True}
    assert [e for e in events if e.get("usage")] == []


async def test_parameters_are_not_dropped(stage: Stage) -> None:
    """A parameter that the provider does not know is a 400 that names it, and nothing is sent."""
    status, headers, body = await stage.chat("claude", logit_bias={"5": 1})
    assert (status, headers["x-exo-cause"]) == (400, "bad_request")
    assert (body["error"]["code"], body["error"]["param"]) == ("unsupported_parameter", "logit_bias")
    assert stage.standins["anthropic"].requests == []


@pytest.mark.parametrize(
    "field", ["api_base", "api_key", "base_url", "extra_headers", "aws_access_key_id", "mock_response"]
)
async def test_a_request_cannot_steer(stage: Stage, field: str) -> None:
    """Where a call goes and with which key is the deployment's to say: such a field of a request is refused by name."""
    for more in ({field: "x"}, {"extra_body": {field: "x"}}):
        status, _, body = await stage.chat("claude", **more)
        assert (status, body["error"]["param"]) == (400, field)
    assert stage.standins["anthropic"].requests == []


async def test_provider_parameters_pass_through(stage: Stage) -> None:
    """A provider's own parameter reaches it, from the body and from extra_body."""
    await stage.chat("claude", top_k=5)
    assert stage.standins["anthropic"].requests[-1].body["top_k"] == 5
    await stage.chat("gpt", extra_body={"special": 1})
    assert stage.standins["openai"].requests[-1].body["special"] == 1


async def test_prompted_tools(stage: Stage) -> None:
    """A model without native tools gets them in words; its JSON comes back as tool_calls, streamed too."""
    answer = '```json\n{"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}\n```'
    stage.standins["openai"].queue.extend([Script(text=answer), Script(text=answer)])
    asked = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    history = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [asked]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    _, _, plain = await stage.chat("words", tools=[WEATHER], messages=history)
    choice = plain["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]
    assert (call["type"], call["function"]) == ("function", {"name": "weather", "arguments": '{"city": "Bern"}'})
    sent = stage.standins["openai"].requests[-1].body
    assert "tools" not in sent and "weather" in sent["messages"][0]["content"]
    assert "sunny" in sent["messages"][-1]["content"]
    events = await stage.stream("words", tools=[WEATHER])
    assert events[0]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "weather"
    assert events[1]["choices"][0]["finish_reason"] == "tool_calls"
    assert (events[2]["usage"]["completion_tokens"] > 0, events[3]) == (True, {"done": True})


async def test_prompted_tools_retry_once(stage: Stage) -> None:
    """Arguments against the schema are asked for once more, with the reason; then it is a 502 that says it."""
    bad = Script(text='{"tool_calls": [{"name": "weather", "arguments": {"city": 5}}]}')
    good = Script(text='{"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}')
    stage.standins["openai"].queue.extend([bad, good])
    _, _, plain = await stage.chat("words", tools=[WEATHER])
    assert plain["choices"][0]["finish_reason"] == "tool_calls"
    first, second = stage.standins["openai"].requests
    assert "is not of type 'string'" in second.body["messages"][-1]["content"]
    assert len(second.body["messages"]) == len(first.body["messages"]) + 2
    stage.standins["openai"].queue.extend([bad, bad])
    status, _, body = await stage.chat("words", tools=[WEATHER])
    assert (status, body["error"]["code"]) == (502, "invalid_tool_call")
    assert "is not of type 'string'" in body["error"]["message"]


async def test_what_litellm_knows(stage: Stage) -> None:
    """Its table of models: prices per million, windows, capabilities."""
    facts = await stage.service.facts()
    assert facts["openai/gpt-4o"] == facts["gpt-4o"]
    provider, mode, context, can, _, price_in, price_out = facts["gpt-4o"]
    assert (provider, mode, price_in, price_out) == ("openai", "chat", pytest.approx(2.5), pytest.approx(10))
    assert "vision" in can and context >= 100_000
    assert "no/such" not in facts


def event(**more: Any) -> dict[str, Any]:
    """A finished call, as the daemon tells of it."""
    caller = Caller(key_id="k1", user="ann")
    body = {"model": "fast", "messages": MESSAGES, "temperature": 0.5}
    record = CallRecord(
        id="call-1", kind="chat", model="fast", served_model="gpt-4o", backend="b1", provider="openai", stream=False,
        caller=caller, started=1_700_000_000.0, ttft_s=0.1, total_s=0.5, usage=Usage(3, 4), cost=0.25, text="Hi Ann",
        body=body, **more,
    )  # fmt: skip
    return {**summary(record), "request": body, "text": record.text}


async def test_litellms_own_callbacks(stage: Stage) -> None:
    """One of LiteLLM's loggers posts a call, and a failed one, to its service at once, with text, tokens and cost."""
    told: list[Any] = []
    status = 200

    async def collect(request: web.Request) -> web.Response:
        told.extend(json.loads(line) for line in (await request.text()).splitlines())
        return web.Response(status=status)

    app = web.Application()
    app.router.add_post("/log", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    before = stage.service._environment
    try:
        await stage.service.update(
            stage.service._deployments, {**before, "SUMOLOGIC_WEBHOOK_URL": f"http://127.0.0.1:{port}/log"}
        )
        await stage.service.tell_callback("sumologic", event())
        await stage.service.tell_callback("sumologic", event(error="it broke", status=500))
        good, bad = told
        assert (good["id"], good["status"], good["model"]) == ("call-1", "success", "gpt-4o")
        assert good["response"]["choices"][0]["message"]["content"] == "Hi Ann"
        assert good["messages"] == MESSAGES
        assert (good["prompt_tokens"], good["completion_tokens"], good["response_cost"]) == (3, 4, 0.25)
        assert (good["endTime"] - good["startTime"], good["end_user"]) == (pytest.approx(0.5), "ann")
        assert (bad["status"], bad["error_str"]) == ("failure", "it broke")
        status = 500
        with pytest.raises(UpstreamError, match="500"):
            await stage.service.tell_callback("sumologic", event())
    finally:
        await stage.service.update(stage.service._deployments, before)
        await runner.cleanup()


async def test_a_callback_without_its_key(stage: Stage) -> None:
    """LiteLLM's own word on what is missing."""
    with pytest.raises(UpstreamError, match=r"lago.*LAGO_API_BASE"):
        await stage.service.tell_callback("lago", event())


async def test_the_names_of_callbacks() -> None:
    """Ours are names of the installed package's, and none of its names is left undecided."""
    code = (
        "import json, litellm; from pathlib import Path; "
        "print(*litellm._known_custom_logger_compatible_callbacks); "
        "posted = Path(litellm.__file__).parent / 'integrations/generic_api/generic_api_compatible_callbacks.json'; "
        "print(*json.loads(posted.read_text()))"
    )
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    no_loggers = {
        "anthropic_cache_control_hook", "bitbucket", "cloudzero", "compression_interception", "dotprompt",
        "dynamic_rate_limiter", "dynamic_rate_limiter_v3", "focus", "generic_api", "gitlab", "humanloop",
        "langfuse", "litellm_agent", "mavvrik", "pagerduty", "prometheus", "resend_email", "sendgrid_email",
        "smtp_email", "vantage", "vector_store_pre_call_hook",
    }  # fmt: skip
    classes, posted = (set(line.split()) for line in done.stdout.strip().splitlines())
    assert classes - no_loggers == LITELLM_CALLBACKS
    assert posted - {"sample_callback"} == POSTED_CALLBACKS


async def test_the_one_http_client(stage: Stage) -> None:
    """The daemon's pass-through client talks to a worker as to any upstream, and understands its errors."""
    call = Call(
        id="1", kind="chat", model="claude", body={"model": "claude", "messages": MESSAGES}, stream=True,
        deadline=time.monotonic() + 30, prompt_tokens=3,
    )  # fmt: skip
    attempt = Attempt(call=call, timeout_s=30)
    connections = Connections()
    asked = {d.id: d for d in stage.service._deployments}
    try:
        upstream = SidecarUpstream(stage.service, connections, asked["claude"])
        events = [event async for batch in upstream.stream(attempt) for event in batch.events]
        assert text_of(events).startswith("You said: Hello there")
        stage.standins["anthropic"].queue.extend([Script(status=429, retry_after="7"), Script(eof_after=3)])
        with pytest.raises(UpstreamError) as limited:
            [batch async for batch in upstream.stream(attempt)]
        with pytest.raises(UpstreamError) as cut:
            [batch async for batch in upstream.stream(attempt)]
    finally:
        await connections.close()
    assert (limited.value.cause, limited.value.retry_after) == ("rate_limited", 7)
    assert cut.value.cause == "eof"


async def test_key_check(stage: Stage) -> None:
    """A key is checked with one token, on demand: the provider's word counts."""
    assert (await stage.service.check_key("claude")).ok
    assert stage.standins["anthropic"].requests[-1].body["max_tokens"] == 1
    wrong = await stage.service.check_key("wrong-key")
    assert (wrong.ok, wrong.status, wrong.cause) == (False, 401, "auth")


async def test_update(stage: Stage) -> None:
    """When `update` returns, a new deployment is served and a removed one is unknown."""
    before = stage.service._deployments
    new = deployment("new", "openai/gpt-4o", api_key=KEY, api_base=stage.standins["openai"].url + "/v1")
    try:
        await stage.service.update([new])
        assert (await stage.chat("new"))[0] == 200
        assert (await stage.chat("claude"))[2]["error"]["code"] == "unknown_deployment"
    finally:
        await stage.service.update(before)
    assert (await stage.chat("claude"))[0] == 200


async def test_a_gone_client_cancels_the_provider(stage: Stage) -> None:
    """Whoever lets go of a stream lets go of the provider's too."""
    stage.standins["anthropic"].queue.append(Script(stall_after=2))
    async with stage.service.worker() as endpoint:
        connector = aiohttp.UnixConnector(endpoint.socket)
        async with aiohttp.ClientSession(connector=connector) as session:
            body = {"messages": MESSAGES, "stream": True}
            headers = {"x-exo-deployment": "claude"}
            async with session.post(f"{endpoint.base_url}/chat/completions", json=body, headers=headers) as response:
                await response.content.readline()
    ended = stage.standins["anthropic"].requests[-1].ended
    assert await asyncio.to_thread(ended.wait, 10)
    assert stage.standins["anthropic"].requests[-1].outcome == "disconnected"


async def test_secrets_stay_inside(stage: Stage) -> None:
    """Keys stand in no argument, environment block, file or socket that others may read."""
    rows = [row for row in stage.service.status() if row["pid"]]
    assert rows
    for row in rows:
        process = Path("/proc") / str(row["pid"])
        if process.exists():
            assert KEY.encode() not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    async with stage.service.worker() as endpoint:
        socket = endpoint.socket
    assert stat.S_IMODE(os.stat(socket).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(socket)).st_mode) == 0o700
    assert [f for f in stage.home.rglob("*") if f.is_file() and KEY.encode() in f.read_bytes()] == []


async def test_a_killed_worker_is_replaced(stage: Stage) -> None:
    """kill -9 of a worker: its call breaks, new calls are served by the other at once, and it comes back."""
    await both_serve(stage.service)
    victim = stage.service.status()[0]
    stage.standins["anthropic"].queue.append(Script(stall_after=2))
    async with stage.service.worker() as endpoint:
        assert endpoint.worker == 0
        connector = aiohttp.UnixConnector(endpoint.socket)
        async with aiohttp.ClientSession(connector=connector) as session:
            body = {"messages": MESSAGES, "stream": True}
            headers = {"x-exo-deployment": "claude"}
            async with session.post(f"{endpoint.base_url}/chat/completions", json=body, headers=headers) as response:
                await response.content.readline()
                os.kill(victim["pid"], signal.SIGKILL)
                with pytest.raises(aiohttp.ClientError):
                    while await response.content.readany():
                        pass
    await until(lambda: stage.service.status()[0]["state"] != "serving")
    assert (await stage.chat("claude"))[0] == 200
    await both_serve(stage.service)
    again = stage.service.status()[0]
    assert again["pid"] != victim["pid"] and again["starts"] == 2


async def test_a_silent_worker_gets_no_new_calls(stage: Stage) -> None:
    """A worker that misses its pings is passed over until it answers again; nothing is killed for a pause."""
    await both_serve(stage.service)
    victim = stage.service.status()[0]
    os.kill(victim["pid"], signal.SIGSTOP)
    try:
        await until(lambda: stage.service.status()[0]["state"] == "silent")
        async with stage.service.worker() as endpoint:
            assert endpoint.worker == 1
        assert (await stage.chat("claude"))[0] == 200
    finally:
        os.kill(victim["pid"], signal.SIGCONT)
    await both_serve(stage.service)
    assert stage.service.status()[0]["pid"] == victim["pid"]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  # states of other processes: nobody here could set an event
            await asyncio.sleep(0.02)


async def both_serve(service: LiteLLMService) -> None:
    await until(lambda: [row["state"] for row in service.status()] == ["serving", "serving"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_workers_die_with_their_daemon(tmp_path: Path) -> None:
    """A daemon that is killed leaves no worker and no socket behind."""
    code = """
        import asyncio, os, sys
        from pathlib import Path
        from exo_node.routing.upstream.service import LiteLLMService
        async def main():
            service = LiteLLMService(home=Path(sys.argv[1]), environment=dict(os.environ), workers=1)
            await service.start()
            await service.ready()
            print(service.status()[0]["pid"], flush=True)
            await asyncio.Event().wait()
        asyncio.run(main())
    """
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(code), str(tmp_path), stdout=subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        pid = int(await parent.stdout.readline())
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: not os.path.exists(f"/proc/{pid}"))
