"""LiteLLM's workers against stand-in providers: answers of every kind, in each provider's own wire format."""

from __future__ import annotations

import base64
import json
import struct

import aiohttp
import pytest

from tests.integration.sidecar_stage import MARKS, MESSAGES, STANDINS, WEATHER, Stage, text_of
from tests.standins import Script
from tests.standins.answers import pieces

pytestmark = MARKS


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


@pytest.mark.parametrize("name", ["claude", "gpt", "gemini", "llama"])
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
async def test_characters_that_end_lines_elsewhere(stage: Stage, name: str, path: str) -> None:
    """U+0085, U+2028 and U+2029, which providers send as they are, end no line of a stream: all of the text comes."""
    standin = stage.standins[STANDINS.get(name, name)]
    text = "a \u2028 b\u2028 \u2029\u0085c \U0001f600 \u00e9\\n d"
    standin.queue.append(Script(text=text, escaped=False))
    events = await stage.stream(name, path, **({"prompt": "Hello"} if path == "completions" else {}))
    said = [c for e in events for c in e.get("choices", ())]
    assert "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in said) == text
    assert events[-1] == {"done": True}


@pytest.mark.parametrize("name", ["claude", "gpt", "vllm", "gemini", "llama"])
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
async def test_a_text_about_ends(stage: Stage, name: str, path: str) -> None:
    """What ends a stream for OpenAI's clients ends none within a text, and nothing of it is lost."""
    standin = stage.standins[STANDINS.get(name, name)]
    text = "It ends with [DONE] or data: [DONE] . And </s> then <|end|> goes on"
    standin.queue.append(Script(text=text))
    events = await stage.stream(name, path, **({"prompt": "Hello"} if path == "completions" else {}))
    said = [c for e in events for c in e.get("choices", ())]
    assert "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in said) == text
    assert [c["finish_reason"] for c in said if c["finish_reason"]] == ["stop"]


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


async def test_usage_is_never_invented(stage: Stage) -> None:
    """An answer whose provider reports no usage has none, streamed and plain: the adapter estimates, and says so."""
    stage.standins["openai"].queue.append(Script(usage=False))
    events = await stage.stream("gpt")
    assert events[-1] == {"done": True}
    assert [e for e in events if e.get("usage")] == []
    for path, body in (
        ("chat/completions", {"messages": MESSAGES}),
        ("completions", {"prompt": "Hi"}),
        ("embeddings", {"input": "Hi"}),
    ):
        stage.standins["openai"].queue.append(Script(usage=False))
        status, _, answer = await stage.post("gpt", path, body)
        assert (status, "usage" in answer) == (200, False), answer


async def test_parameters_are_not_dropped(stage: Stage) -> None:
    """A parameter that the provider does not know is a 400 that names it, and nothing is sent; another may know it."""
    status, headers, body = await stage.chat("claude", logit_bias={"5": 1})
    assert (status, headers["x-exo-cause"]) == (400, "unavailable")
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


async def test_usage_of_both_tries_or_none(stage: Stage) -> None:
    """Two tries are paid for: what both report adds up; what one does not report is not 0, and left to an estimate."""
    texts = [json.dumps({"tool_calls": [{"name": "weather", "arguments": {"city": city}}]}) for city in (5, "Bern")]
    stage.standins["openai"].queue.extend(Script(text=text) for text in texts)
    _, _, plain = await stage.chat("words", tools=[WEATHER])
    assert plain["usage"]["completion_tokens"] == sum(len(pieces(text)) for text in texts)
    for silent in (0, 1):
        stage.standins["openai"].queue.extend(Script(text=text, usage=i != silent) for i, text in enumerate(texts))
        _, _, plain = await stage.chat("words", tools=[WEATHER])
        assert (plain["choices"][0]["finish_reason"], "usage" in plain) == ("tool_calls", False)


async def test_what_litellm_knows(stage: Stage) -> None:
    """Its table of models: prices per million, windows, capabilities."""
    facts = await stage.service.facts()
    assert facts["openai/gpt-4o"] == facts["gpt-4o"]
    provider, mode, context, can, _, price_in, price_out, price_cached = facts["gpt-4o"]
    assert (provider, mode) == ("openai", "chat")
    assert (price_in, price_out, price_cached) == pytest.approx((2.5, 10, 1.25))
    assert "vision" in can and context >= 100_000
    assert "no/such" not in facts


@pytest.mark.parametrize("then", [Script(status=429), Script(status=500), None])
async def test_what_was_answered_is_paid_whatever_comes_then(stage: Stage, then: Script | None) -> None:
    """The first try's tokens are in the error when the second one fails; both tries' when neither is a valid call."""
    text = json.dumps({"tool_calls": [{"name": "weather", "arguments": {"city": 5}}]})
    stage.standins["openai"].queue.extend([Script(text=text), then or Script(text=text)])
    status, _, body = await stage.chat("words", tools=[WEATHER])
    assert status in (429, 500, 502)
    assert body["error"]["usage"]["completion_tokens"] == len(pieces(text)) * (1 if then else 2)
