"""The pass-through client against stand-in providers: answers, requests, and every way to fail."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exo_node.routing.adapter.adapter import LiteLLMAdapter
from exo_node.routing.adapter.parts import Parts
from exo_node.routing.call import Attempt, Batch, Call, CallKind, FormFile, Partial, UpstreamError
from exo_node.routing.deployment import Deployment
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.health.retry_budget import RetryBudget
from exo_node.routing.plan import Candidate
from exo_node.routing.policy.policy import choose
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.passthrough import PassThrough
from tests.standins import OpenAI, Script, answer_to, no_such_host_url, refused_url, self_signed, standin
from tests.standins.server import Frames, Whole

ASK = [{"role": "user", "content": "hello"}]
KEY = "sk-planted-key-0123456789"


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    made = Connections()
    yield made
    await made.close()


def deployment(base: str, provider: str = "openai", **params: Any) -> Deployment:
    return Deployment(id="cloud", model_name="m", litellm_model=f"{provider}/gpt", provider=provider,
                      upstream_model="gpt", params={"api_key": KEY, **params}, api_base=base)  # fmt: skip


def attempt(
    kind: CallKind = "chat",
    *,
    stream: bool = False,
    timeout_s: float = 30.0,
    partial: Partial | None = None,
    files: tuple[FormFile, ...] = (),
    **body: Any,
) -> Attempt:
    if kind == "chat":
        body.setdefault("messages", ASK)
    body = {"model": "m", **body, **({"stream": True} if stream else {})}
    call = Call(id="c", kind=kind, model="m", body=body, stream=stream, deadline=time.monotonic() + 60,
                prompt_tokens=1, files=files)  # fmt: skip
    return Attempt(call=call, timeout_s=timeout_s, partial=partial)


async def streamed(upstream: PassThrough, asked: Attempt) -> tuple[str, bytes, list[dict[str, Any]]]:
    """(text, raw, events)."""
    events: list[dict[str, Any]] = []
    raw = b""
    async for batch in upstream.stream(asked):
        events += batch.events
        raw += batch.raw
    text = "".join(c["delta"].get("content") or "" for e in events for c in e["choices"])
    return text, raw, events


async def test_plain_and_streamed(connections: Connections) -> None:
    """The provider's bytes come through; the request carries its model, its key and the wish for usage."""
    async with standin("openai", key=KEY, models=("gpt",)) as one:
        upstream = PassThrough(connections, deployment(one.url + "/v1", temperature=0.3))
        whole = await upstream.whole(attempt())
        assert whole.data is not None
        assert whole.data["choices"][0]["message"]["content"] == answer_to("hello")
        assert json.loads(whole.raw) == whole.data
        text, raw, events = await streamed(upstream, attempt(stream=True))
        assert text == answer_to("hello")
        assert events[-1]["usage"] == whole.data["usage"]
        assert b"[DONE]" not in raw
        assert one.requests[0].body == {"model": "gpt", "messages": ASK, "temperature": 0.3}
        assert one.requests[1].body["stream_options"] == {"include_usage": True}


async def test_what_a_client_may_send_goes_on(connections: Connections) -> None:
    """Half of a surrogate pair in a field of the provider's own is its business; it arrives as it was sent."""
    async with standin("openai", key=KEY, models=("gpt",)) as one:
        await PassThrough(connections, deployment(one.url + "/v1")).whole(attempt(metadata={"half": "\ud83d"}))
        assert one.requests[-1].body["metadata"] == {"half": "\ud83d"}


async def test_one_connection_serves_request_after_request(connections: Connections) -> None:
    """Plain and streamed answers leave the connection in the pool."""
    async with standin("openai") as one:
        upstream = PassThrough(connections, deployment(one.url + "/v1"))
        for _ in range(3):
            await upstream.whole(attempt())
            await streamed(upstream, attempt(stream=True))
        assert len({r.headers["host"] for r in one.requests}) == 1
        assert one.accepted == 1


async def test_goes_on_from_a_partial_answer(connections: Connections) -> None:
    """Only what is new is answered to a call with a partial answer."""
    full = answer_to("hello")
    async with standin("openai") as one:
        for provider in ("openai", "mistral", "deepseek", "hosted_vllm"):
            upstream = PassThrough(connections, deployment(one.url + "/v1", provider))
            text, _, _ = await streamed(upstream, attempt(stream=True, partial=Partial(full[:20])))
            assert text == full[20:]


async def test_every_kind(connections: Connections) -> None:
    """Embeddings, reranking, images, speech, transcription and moderation go to their paths."""
    async with standin("openai") as one:
        upstream = PassThrough(connections, deployment(one.url + "/v1"))
        for kind, body in {
            "embedding": {"input": "x", "encoding_format": "base64"},
            "rerank": {"query": "a", "documents": ["a", "b"]},
            "image": {"prompt": "x"},
            "moderation": {"input": "x"},
        }.items():
            whole = await upstream.whole(attempt(kind, **body))  # type: ignore[arg-type]
            assert whole.data
        speech = await upstream.whole(attempt("speech", input="hi", voice="v"))
        assert (speech.raw, speech.content_type, speech.data) == (b"ID3hi", "audio/mpeg", None)
        file = FormFile("file", "a.wav", "audio/wav", b"RIFF")
        heard = await upstream.whole(attempt("transcription", files=(file,), temperature=0))
        assert heard.data == {"text": "heard 4 bytes"}
        assert one.requests[-1].body == {"model": "gpt", "temperature": "0"}
        await upstream.whole(attempt("transcription", files=(file,), timestamp_granularities=["word"]))
        assert one.requests[-1].body == {"model": "gpt", "timestamp_granularities[]": "word"}
        text = await upstream.whole(attempt("transcription", files=(file,), response_format="text"))
        assert (text.raw, text.content_type) == (b"heard 4 bytes\n", "text/plain")


async def test_azure_ollama_and_cohere(connections: Connections) -> None:
    """Paths and keys of those that differ."""
    async with standin("azure", key=KEY, models=("gpt",)) as azure:
        for params in ({"api_version": "2024-10-21"}, {}):
            upstream = PassThrough(connections, deployment(azure.url, "azure", **params))
            assert (await streamed(upstream, attempt(stream=True)))[0] == answer_to("hello")
    async with standin("ollama", models=("gpt",)) as ollama:
        upstream = PassThrough(connections, deployment(ollama.url, "ollama"))
        assert (await streamed(upstream, attempt(stream=True)))[0] == answer_to("hello")
    async with standin("cohere", key=KEY) as cohere:
        upstream = PassThrough(connections, deployment(cohere.url, "cohere"))
        ranked = await upstream.whole(attempt("rerank", query="a", documents=["b", "a"]))
        assert ranked.data is not None
        assert ranked.data["results"][0]["index"] == 1


async def test_a_unix_socket(connections: Connections, tmp_path: Path) -> None:
    """The sidecar's socket is asked with the deployment's id and no key; when it is gone, that is said."""
    path = str(tmp_path / "s")
    async with standin("openai", unix_path=path) as one:
        upstream = PassThrough(connections, deployment(""), unix_path=path)
        assert (await streamed(upstream, attempt(stream=True)))[0] == answer_to("hello")
        assert one.requests[0].headers["x-exo-deployment"] == "cloud"
        assert "authorization" not in one.requests[0].headers
    for ask in (upstream.whole, lambda a: streamed(upstream, a)):
        with pytest.raises(UpstreamError) as caught:
            await ask(attempt(stream=True))
        assert caught.value.cause in ("unavailable", "reset")


CAUSES: dict[str, tuple[Script, str, str]] = {
    "401": (Script(status=401, message=f"Incorrect API key provided: {KEY}"), "auth", "auth"),
    "404": (Script(status=404, code="model_not_found"), "not_found", "not_found"),
    "429": (Script(status=429, retry_after="7"), "rate_limited", "rate_limited"),
    "400": (Script(status=400, message="bad temperature"), "bad_request", "bad_request"),
    "context": (Script(status=400, message="maximum context length is 8"), "context", "context"),
    "filter": (Script(status=400, code="content_filter"), "content_filter", "content_filter"),
    "500": (Script(status=500), "server", "server"),
    "html": (Script(status=502, body=b"<html>bad gateway</html>"), "server", "server"),
    "stall before the headers": (Script(stall_after=-1), "timeout", "timeout"),
    "stall before the first": (Script(stall_after=0), "timeout", "timeout"),
    "stall mid-stream": (Script(stall_after=2), "timeout", "timeout"),
    "reset before the headers": (Script(reset_after=-1), "reset", "reset"),
    "reset mid-stream": (Script(reset_after=2), "reset", "reset"),
    "cut in an event": (Script(cut_after=2), "eof", "reset"),
    "malformed": (Script(malformed_after=2), "malformed", "malformed"),
    "error event": (Script(error_after=2), "server", ""),
    "eof": (Script(eof_after=2), "", "reset"),  # the adapter misses the finish_reason
}


@pytest.mark.parametrize("name", CAUSES)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_causes(connections: Connections, name: str, stream: bool) -> None:
    """Each failure has its cause, its provider's status and wait, and no key; text before it was delivered."""
    script, in_stream, in_plain = CAUSES[name]
    cause = in_stream if stream else in_plain
    texts: list[str] = []
    async with standin("openai", script=script) as one:
        upstream = PassThrough(connections, deployment(one.url + "/v1"))
        asked = attempt(stream=stream, timeout_s=0.3 if "stall" in name else 30.0)

        async def ask() -> None:
            if not stream:
                await upstream.whole(asked)
                return
            async for batch in upstream.stream(asked):
                texts.extend(c["delta"].get("content") or "" for e in batch.events for c in e["choices"])

        if not cause:
            await ask()
        else:
            with pytest.raises(UpstreamError) as caught:
                await ask()
            assert caught.value.cause == cause
            assert caught.value.upstream_status == (script.status or (500 if name == "error event" else None))
            assert caught.value.retry_after == (7.0 if name == "429" else None)
            assert "cloud" in caught.value.message
            assert KEY not in caught.value.message
    after = max(script.eof_after or 0, script.cut_after or 0, script.malformed_after or 0, script.error_after or 0,
                script.stall_after or 0)  # fmt: skip
    if stream and after > 0:
        assert answer_to("hello").startswith("".join(texts))
        assert "".join(texts)


async def test_unreachable(connections: Connections, tmp_path: Path) -> None:
    """Nobody listens, the name does not resolve, the certificate is nobody's, TLS meets plain HTTP and the reverse."""

    async def cause(base: str, **params: Any) -> str:
        with pytest.raises(UpstreamError) as caught:
            await PassThrough(connections, deployment(base, **params)).whole(attempt(timeout_s=20))
        return caught.value.cause

    assert await cause(refused_url() + "/v1") == "refused"
    assert await cause(no_such_host_url() + "/v1") == "dns"
    assert await cause("not a url") == "unavailable"
    async with standin("openai", tls=self_signed(tmp_path)) as secure, standin("openai") as plain:
        assert await cause(secure.url + "/v1") == "tls"
        assert await cause(plain.url.replace("http:", "https:") + "/v1") == "tls"
        assert await cause(secure.url.replace("https:", "http:") + "/v1") in ("malformed", "reset")
        trusting = PassThrough(connections, deployment(secure.url + "/v1", ssl_verify=False))
        assert (await trusting.whole(attempt())).data


class _Odd(OpenAI):
    """Answers a stream with one JSON object."""

    answer: Callable[[], Any]

    def chat(self, received: Any, script: Script) -> Any:
        received.body.pop("stream", None)
        return super().chat(received, script)


async def test_no_stream_where_one_was_asked_for(connections: Connections) -> None:
    """A provider that ignores `stream` is told apart from a stream."""
    async with _Odd() as one:
        with pytest.raises(UpstreamError) as caught:
            await streamed(PassThrough(connections, deployment(one.url + "/v1")), attempt(stream=True))
        assert caught.value.cause == "malformed"


async def test_a_stream_that_is_called_json(connections: Connections) -> None:
    """What begins as a stream is one, whatever its server or a proxy calls it."""

    class Mistyped(OpenAI):
        def chat(self, received: Any, script: Script) -> Any:
            said = super().chat(received, script)
            assert isinstance(said, Frames)
            return replace(said, content_type="application/json")

    async with Mistyped() as one:
        said, _, events = await streamed(PassThrough(connections, deployment(one.url + "/v1")), attempt(stream=True))
    assert said
    assert events[-1]["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_with_a_good_status(connections: Connections, stream: bool) -> None:
    """What it says is told, whichever form its error has."""
    error = {"object": "error", "message": "This model's maximum context length is 10 tokens", "code": 400}

    class Polite(OpenAI):
        def chat(self, received: Any, script: Script) -> Any:
            return Whole(error)

    async with Polite() as one:
        upstream = PassThrough(connections, deployment(one.url + "/v1"))
        with pytest.raises(UpstreamError, match="maximum context length") as caught:
            await (streamed(upstream, attempt(stream=True)) if stream else upstream.whole(attempt()))
        assert caught.value.cause == "context"


@pytest.mark.parametrize(("raw", "content_type"), [(b"<html>Sign in</html>", "text/html"), (b"", "audio/mpeg")])
async def test_a_web_page_is_no_sound(connections: Connections, raw: bytes, content_type: str) -> None:
    """What comes with a good status in place of the sound that was asked for is told apart from it."""

    class Portal(OpenAI):
        def speech(self, received: Any, script: Script) -> Any:
            return Whole(raw=raw, content_type=content_type)

    async with Portal() as one:
        with pytest.raises(UpstreamError) as caught:
            await PassThrough(connections, deployment(one.url + "/v1")).whole(attempt("speech", input="Hi"))
        assert caught.value.cause == "malformed"


async def test_closing_the_stream_cancels_upstream(connections: Connections) -> None:
    """A stream that is closed early disconnects from the provider at once; so does a cancelled plain call."""
    async with standin("openai", script=Script(chunks=1000, gap_s=0.01)) as one:
        upstream = PassThrough(connections, deployment(one.url + "/v1"))
        stream = upstream.stream(attempt(stream=True))
        await anext(stream)
        await stream.aclose()
        assert await asyncio.to_thread(one.requests[0].ended.wait, 10)
        assert one.requests[0].outcome == "disconnected"
        task = asyncio.create_task(upstream.whole(attempt()))
        await one.asked(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(one.requests[1].ended.wait, 10)
        assert one.requests[1].outcome == "disconnected"


async def test_a_stream_that_ends_late_leaves_its_connection_to_the_next(connections: Connections) -> None:
    """An answer's connection serves the next one as soon as it has come; closing the first must not silence that."""
    async with standin("openai") as one:
        upstream = PassThrough(connections, deployment(one.url + "/v1"))
        one.queue.append(Script(join=1000))
        first = upstream.stream(attempt(stream=True))
        await anext(first)
        assert first._exchange is not None
        while not first._exchange.content.is_eof():  # noqa: ASYNC110 - the parser tells nobody
            await asyncio.sleep(0)
        one.queue.append(Script(gap_s=0.01))
        second = upstream.stream(attempt(stream=True))
        came = [await anext(second)]
        ended = asyncio.Event()

        def each(batch: Batch) -> bool:
            came.append(batch)
            return True

        assert second.flow(each, ended.set)
        assert not first.flow(lambda _: True, ended.set)
        await first.aclose()
        async with asyncio.timeout(20):
            await ended.wait()
        text = "".join(c["delta"].get("content") or "" for b in came for e in b.events for c in e["choices"])
        await second.aclose()
        assert (text, one.accepted) == (answer_to("hello"), 1)


@pytest.mark.parametrize("cut", [False, True])
async def test_a_server_that_makes_one_choice_whatever_was_asked(connections: Connections, cut: bool) -> None:
    """Ollama's and others': its one choice is the whole answer, plain and streamed, once it says that it is over; not
    where the stream just ends."""
    async with standin("openai", key=KEY, models=("gpt",), script=Script(done=not cut)) as one:
        upstream = PassThrough(connections, deployment(one.url + "/v1", additional_drop_params=["n"]))
        adapter = LiteLLMAdapter(
            Parts(sources=Only(upstream), choose=choose, profile=Profile(), breaker=Breaker(), retries=RetryBudget())
        )
        plain = await adapter.serve(attempt(n=2).call)
        assert plain.whole is not None and plain.whole.data is not None
        assert [c["message"]["content"] for c in plain.whole.data["choices"]] == [answer_to("hello")]
        reply = await adapter.serve(attempt(n=2, stream=True).call)
        assert reply.frames is not None
        seen = b""
        try:
            async for raw in reply.frames:
                seen += raw
        except UpstreamError as error:
            assert cut and error.cause == "eof"
        else:
            assert not cut
        assert b'"finish_reason":"stop"' in seen.replace(b" ", b"")


class Only:
    """One backend."""

    def __init__(self, upstream: PassThrough) -> None:
        self._upstream = upstream

    async def candidates(self, call: Call) -> list[Candidate]:
        return [Candidate(backend="cloud", kind="deployment", provider="openai", model="gpt")]

    def upstream(self, candidate: Candidate) -> PassThrough:
        return self._upstream
