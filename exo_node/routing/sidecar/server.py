"""A worker's HTTP server on its unix socket: OpenAI's paths in front, LiteLLM behind.

The header `x-exo-deployment` says which of the configured targets a call goes to. Failures are OpenAI's error objects
with the provider's status; `x-exo-cause` says more than the status does. A stream's headers wait for its first chunk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from exo_node.routing.masking import Masker, secrets_in, secrets_of_environment
from exo_node.routing.sidecar import answers, calls, prompted_tools, relay
from exo_node.routing.sidecar.calls import Kind, Upload
from exo_node.routing.sidecar.diagnosis import failure_of
from exo_node.routing.sidecar.failures import AfterAnswer, CallFailed, Failure
from exo_node.routing.sidecar.loggers import Loggers
from exo_node.routing.sidecar.protocol import DEPLOYMENT_HEADER, Configuration, Target
from exo_node.routing.sidecar.queries import Knowledge, resident_bytes
from exo_node.routing.sidecar.sending import watch

MAX_BODY = 512 * 2**20  # bytes: images and audio come in base64; the API in front has the real limit

PATHS: Mapping[str, Kind] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
    "/v1/rerank": "rerank",
    "/v1/images/generations": "image",
    "/v1/audio/speech": "speech",
    "/v1/audio/transcriptions": "transcription",
    "/v1/moderations": "moderation",
}
# A key check asks the cheapest question of the kind.
_CHECKS: Mapping[str, tuple[Kind, dict[str, Any]]] = {
    "chat": ("chat", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}),
    "completion": ("completion", {"prompt": "Hi", "max_tokens": 1}),
    "embedding": ("embedding", {"input": ["Hi"]}),
    "rerank": ("rerank", {"query": "Hi", "documents": ["Hi"]}),
    "moderation": ("moderation", {"input": "Hi"}),
}


class Worker:
    """Serves one worker's calls."""

    def __init__(self, litellm: Any, configuration: Configuration) -> None:
        self._litellm = litellm
        self._knowledge = Knowledge(litellm)
        self._loggers = Loggers(litellm)
        self._environment: Mapping[str, str] = configuration.environment
        self._steering = frozenset(map(str, litellm.types.utils.all_litellm_params))
        self._targets: dict[str, Target] = {}
        self._mask = Masker()
        self.configure(configuration)

    def configure(self, configuration: Configuration) -> None:
        """Take another list of targets; calls in flight go on with what they began with."""
        if configuration.environment != self._environment:
            self._environment = configuration.environment
            self._loggers.forget()
        self._targets = {target.id: target for target in configuration.targets}
        secrets = {s for target in configuration.targets for s in secrets_in(target.params)}
        secrets |= secrets_of_environment(configuration.environment)
        self._mask = Masker(secrets)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_get("/ping", self._ping)
        for path, kind in PATHS.items():
            app.router.add_post(path, self._route(kind))
        app.router.add_post("/query/{name}", self._query)
        app.router.add_post("/tell/{name}", self._tell)
        return app

    def _route(self, kind: Kind) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            sending = watch()
            try:
                target = self._target(request)
                body, upload = await _body(request, kind)
                if kind == "chat" and self._is_prompted(target, body):
                    return await self._prompted(request, target, body)
                arguments = calls.arguments(kind, target, body, self._steering, upload)
                answer = await getattr(self._litellm, calls.FUNCTIONS[kind][0])(**arguments)
                if body.get("stream") and kind in ("chat", "completion"):
                    read = answers.Chunks(kind, _provider(target))
                    return await self._stream(request, relay.chunks(answer, read, relay.overlap_of(body, target.model)))
                return self._whole(kind, target, body, answer)
            except Exception as e:  # LiteLLM raises whatever its parts raise; every one is this call's failure
                return _error(failure_of(e, self._mask, sent=sending.begun))

        return handle

    def _target(self, request: web.Request) -> Target:
        name = request.headers.get(DEPLOYMENT_HEADER, "")
        target = self._targets.get(name)
        if target is None:
            raise CallFailed(f"the sidecar knows no deployment {name!r}", "unavailable", code="unknown_deployment")
        return target

    def _is_prompted(self, target: Target, body: Mapping[str, Any]) -> bool:
        """Do tools stand in this call, and does the model lack them?"""
        messages = body.get("messages")
        if not isinstance(messages, list):
            return False
        told = any(isinstance(m, Mapping) and (m.get("role") == "tool" or m.get("tool_calls")) for m in messages)
        if not (body.get("tools") or told):
            return False
        return not (self._knowledge.tools(target.model) if target.tools is None else target.tools)

    def _whole(self, kind: Kind, target: Target, body: Mapping[str, Any], answer: Any) -> web.Response:
        if kind == "speech":
            content_type = answer.response.headers.get("content-type", "audio/mpeg")
            return web.Response(body=answer.content, headers={"Content-Type": content_type})
        if kind == "transcription" and not hasattr(answer, "model_dump"):
            return web.Response(text=str(answer))
        data = answers.plain(answer, _provider(target))
        if kind == "moderation":
            data = answers.moderation(data)
        if kind == "embedding":
            data = answers.embeddings(data, body.get("encoding_format"))
        if kind == "transcription" and body.get("response_format") in ("text", "srt", "vtt"):
            return web.Response(text=str(data.get("text", "")))
        if kind == "chat":
            overlap = relay.overlap_of(body, target.model)
            for choice in data.get("choices") or ():
                if text := choice["message"].get("content"):
                    choice["message"]["content"] = overlap.cut(text)
        return _json(data)

    async def _stream(self, request: web.Request, chunks: AsyncGenerator[dict[str, Any], None]) -> web.StreamResponse:
        try:
            first = await anext(chunks)
        except StopAsyncIteration as e:
            raise CallFailed("the provider's stream was empty", "eof") from e
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        try:
            await response.write(_event(first))
            async for chunk in chunks:
                await response.write(_event(chunk))
        except ConnectionError:  # the daemon let go of the call
            raise
        except Exception as e:  # as in `_route`; the status is already sent
            await response.write(_event(failure_of(e, self._mask).body()))
        else:
            await response.write(b"data: [DONE]\n\n")
        finally:
            await chunks.aclose()
        await response.write_eof()
        return response

    async def _prompted(self, request: web.Request, target: Target, body: Mapping[str, Any]) -> web.StreamResponse:
        """A chat with tools that the model knows only from its prompt. Streams too, but from a complete answer."""
        tools = prompted_tools.tools_of(body)
        asked = prompted_tools.prompt(body, tools)
        answer = await self._chat(target, asked)
        if tools is not None:
            answer, found = await self._called(target, asked, answer, tools)
            if found:
                choice = answer["choices"][0]
                choice["message"] = {"role": "assistant", "content": None, "tool_calls": found}
                choice["finish_reason"] = "tool_calls"
        if not body.get("stream"):
            return _json(answer)
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return await self._stream(request, _later(answers.as_chunks(answer, with_usage=with_usage)))

    async def _called(
        self, target: Target, asked: Mapping[str, Any], answer: dict[str, Any], tools: prompted_tools.Tools
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The answer, or the second one where it holds no valid calls, and its calls. Raises `AfterAnswer`, where it is
        known what was used."""
        used = answer.get("usage")
        try:
            try:
                return answer, prompted_tools.read(_text(answer), tools)
            except prompted_tools.BadToolCall as first:
                again = prompted_tools.again(asked, _text(answer), str(first))
            second = await self._chat(target, again)
            used = _sum(used, second.get("usage"))
            try:
                return _with_usage(second, used), prompted_tools.read(_text(second), tools)
            except prompted_tools.BadToolCall as e:
                raise CallFailed(
                    f"{target.model} has no native tools and answered no valid tool call, twice: {e}",
                    "malformed", code="invalid_tool_call",
                ) from e  # fmt: skip
        except Exception as e:  # as in `_route`: what was answered is to be paid, whatever came then
            if used:
                raise AfterAnswer(used) from e
            raise

    async def _chat(self, target: Target, body: Mapping[str, Any]) -> dict[str, Any]:
        arguments = calls.arguments("chat", target, body, self._steering)
        return answers.plain(await self._litellm.acompletion(**arguments), _provider(target))

    async def _ping(self, request: web.Request) -> web.Response:
        return _json({"pid": os.getpid(), "rss": resident_bytes(), "deployments": len(self._targets)})

    async def _query(self, request: web.Request) -> web.Response:
        match request.match_info["name"]:
            case "facts":
                return _json(await asyncio.to_thread(self._knowledge.facts))
            case "check":
                return _json(await self._check(request))
        raise web.HTTPNotFound

    async def _tell(self, request: web.Request) -> web.Response:
        """One finished call, for LiteLLM's callback of that name."""
        body = orjson.loads(await request.read())
        try:
            await self._loggers.tell(request.match_info["name"], body["event"], body["params"])
        except Exception as e:  # a logger raises whatever its service and its library do
            said = Masker(secrets_in(body["params"]))(f"{type(e).__name__}: {e}"[:500])
            return _json({"error": self._mask(said)})
        return _json({"error": ""})

    async def _check(self, request: web.Request) -> dict[str, Any]:
        """One real request, as small as the kind of model allows: does the provider take the deployment's key?"""
        try:
            target = self._target(request)
            row = self._knowledge.row(target.model)
            mode = (row or {}).get("mode") or "chat"
            if mode not in _CHECKS:
                raise CallFailed(f"{target.model} is checked by using it: it answers {mode}", "bad_request")
            kind, body = _CHECKS[mode]
            arguments = calls.arguments(kind, target, body, self._steering)
            await getattr(self._litellm, calls.FUNCTIONS[kind][0])(**arguments)
        except Exception as e:  # as in `_route`
            failure = failure_of(e, self._mask)
            return {"ok": False, "status": failure.status, "cause": failure.cause, "message": failure.message}
        return {"ok": True, "status": 200, "cause": "", "message": ""}


async def _body(request: web.Request, kind: Kind) -> tuple[dict[str, Any], Upload | None]:
    if kind != "transcription":
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError as e:
            raise CallFailed(f"the body is not JSON: {e}", "bad_request", code="invalid_json") from e
        if not isinstance(body, dict):
            raise CallFailed("the body must be a JSON object", "bad_request", code="invalid_json")
        return body, None
    fields: dict[str, Any] = {}
    upload = None
    for name, value in (await request.post()).items():
        if isinstance(value, web.FileField):
            upload = Upload(value.filename, value.content_type, value.file.read())
        elif name.endswith("[]"):
            fields.setdefault(name[:-2], []).append(value)
        else:
            fields[name] = float(value) if name == "temperature" and isinstance(value, str) else value
    return fields, upload


def _provider(target: Target) -> str:
    return target.model.partition("/")[0] if "/" in target.model else ""


async def _later(chunks: Any) -> AsyncGenerator[dict[str, Any], None]:
    for chunk in chunks:
        yield chunk


def _text(answer: Mapping[str, Any]) -> str:
    return answer["choices"][0]["message"].get("content") or ""


def _sum(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> dict[str, int] | None:
    """None where one of them was not reported: half of what was used is not what was used."""
    if not first or not second:
        return None
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: int(first.get(name, 0)) + int(second.get(name, 0)) for name in names}


def _with_usage(answer: Mapping[str, Any], usage: Mapping[str, int] | None) -> dict[str, Any]:
    rest = {name: value for name, value in answer.items() if name != "usage"}
    return rest if usage is None else {**rest, "usage": usage}


def _json(data: Any) -> web.Response:
    return web.Response(body=orjson.dumps(data), content_type="application/json")


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _error(failure: Failure) -> web.Response:
    return web.Response(
        status=failure.status,
        body=orjson.dumps(failure.body()),
        content_type="application/json",
        headers=failure.headers(),
    )
