"""A deployment whose upstream speaks OpenAI's HTTP, asked directly; the LiteLLM sidecar is one more of them.

Bytes are relayed as they come; what failover, usage and profile need is read beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp
import orjson

from exo_node.routing import wire_request
from exo_node.routing.call import Attempt, Batch, CallKind, UpstreamError, Whole
from exo_node.routing.connections import Connections
from exo_node.routing.deployment import Deployment
from exo_node.routing.sse_reader import SSEReader
from exo_node.routing.wire_errors import error_from_event, error_from_exception, error_from_response

CONNECT_S = 10.0  # a host that drops packets is no host; the profile's times begin long after
MAX_ERROR_BODY = 256 * 1024
# After [DONE] the end of the body is a packet away; without it the connection could not be used again.
LINGER_S = 0.2
# Answers of these kinds need not be JSON.
_OPAQUE: frozenset[CallKind] = frozenset({"speech", "transcription", "image"})


class PassThrough:
    """One deployment, ready to be asked (`call.Upstream`). Keep it: it remembers addresses and headers.

    `unix_path`: the sidecar's socket, asked in the deployment's stead. Raises `UpstreamError` ("unavailable") at the
    first call where the deployment has no usable address.
    """

    def __init__(self, connections: Connections, deployment: Deployment, *, unix_path: str | None = None) -> None:
        self._connections = connections
        self._deployment = deployment
        self._unix_path = unix_path
        self._secrets = wire_request.secrets_of(deployment)
        self._verify = deployment.params.get("ssl_verify") is not False
        self._parameters = wire_request.parameters_of(deployment)
        self._targets: dict[tuple[CallKind, bool, bool], wire_request.Target] = {}

    async def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]:
        name = self._deployment.id
        reader = SSEReader(name, self._secrets, trusted=self._unix_path is not None)
        try:
            async with self._ask(attempt, streamed=True) as response:
                await self._check(response)
                if response.content_type == "application/json":
                    self._no_stream(await response.read())
                content = response.content
                while data := await content.readany():
                    batch = reader.feed(data)
                    if batch is not None:
                        yield batch
                    if reader.failure is not None:
                        raise reader.failure
                    if reader.done:
                        await _drain(content)
                        return
                batch = reader.end()
                if batch is not None:
                    yield batch
                if reader.failure is not None:
                    raise reader.failure
        except (aiohttp.ClientError, OSError) as e:  # TimeoutError is an OSError
            raise error_from_exception(name, e, unix=self._unix_path is not None) from e

    async def whole(self, attempt: Attempt) -> Whole:
        name = self._deployment.id
        try:
            async with self._ask(attempt, streamed=False) as response:
                await self._check(response)
                raw = await response.read()
                kind = response.content_type
        except (aiohttp.ClientError, OSError) as e:
            raise error_from_exception(name, e, unix=self._unix_path is not None) from e
        if kind != "application/json" and attempt.call.kind in _OPAQUE:
            return Whole(raw, None, kind)
        data = self._json(raw)
        if data.get("error"):
            raise error_from_event(name, data, self._secrets, trusted=self._unix_path is not None)
        return Whole(raw, data)

    def _ask(self, attempt: Attempt, *, streamed: bool) -> aiohttp.client._RequestContextManager:
        call = attempt.call
        local = self._unix_path is not None
        target = self._target(call.kind, attempt.partial is not None, streamed)
        if local:
            body = wire_request.sidecar_body(self._deployment, call, attempt.partial)
        else:
            body = wire_request.body_of(self._deployment, call, attempt.partial, self._parameters)
        data: bytes | aiohttp.FormData
        headers: Mapping[str, str]
        if call.files:
            data, headers = _form(call.files, body), _without(target.headers, "Content-Type")
        else:
            data, headers = orjson.dumps(body), target.headers
        return self._connections.session(self._unix_path).post(
            target.url,
            data=data,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=attempt.timeout_s, sock_connect=min(CONNECT_S, attempt.timeout_s)),
            allow_redirects=False,  # a POST does not survive most of them
            ssl=self._verify,
            proxy=None if local else self._connections.proxy_for(target.url),
        )

    def _target(self, kind: CallKind, prefixed: bool, streamed: bool) -> wire_request.Target:
        target = self._targets.get((kind, prefixed, streamed))
        if target is None:
            if self._unix_path is not None:
                target = wire_request.sidecar_target(self._deployment, kind)
            else:
                target = wire_request.target_of(self._deployment, kind, prefixed=prefixed)
            headers = {"Content-Type": "application/json", **target.headers}
            if streamed:  # compressed streams come in lumps
                headers |= {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
            target = wire_request.Target(target.url, headers)
            self._targets[kind, prefixed, streamed] = target
        return target

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if 200 <= response.status < 300:
            return
        body = await response.content.read(MAX_ERROR_BODY)
        while not response.content.at_eof() and len(body) < MAX_ERROR_BODY:
            body += await response.content.read(MAX_ERROR_BODY - len(body))
        trusted = self._unix_path is not None
        raise error_from_response(
            self._deployment.id, response.status, response.headers, body, self._secrets, trusted=trusted
        )

    def _json(self, raw: bytes) -> dict[str, Any]:
        try:
            data = orjson.loads(raw)
        except orjson.JSONDecodeError as e:
            raise UpstreamError(f"{self._deployment.id}: its answer is not JSON", "malformed") from e
        if not isinstance(data, dict):
            raise UpstreamError(f"{self._deployment.id}: its answer is no JSON object", "malformed")
        return data

    def _no_stream(self, raw: bytes) -> None:
        data = self._json(raw)
        if data.get("error"):
            raise error_from_event(self._deployment.id, data, self._secrets, trusted=self._unix_path is not None)
        raise UpstreamError(f"{self._deployment.id}: it was asked for a stream and sent one object", "malformed")


async def _drain(content: aiohttp.StreamReader) -> None:
    """Read what follows [DONE], so that the connection can be used again; give up soon."""
    if content.at_eof():
        return
    try:
        async with asyncio.timeout(LINGER_S):
            while await content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError):  # the answer is complete all the same
        return


def _without(headers: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key != name}


def _form(files: tuple[Any, ...], body: Mapping[str, Any]) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in body.items():
        for one in value if isinstance(value, list) else [value]:
            form.add_field(name, one if isinstance(one, str) else orjson.dumps(one).decode())
    for file in files:
        form.add_field(file.field, file.data, filename=file.filename, content_type=file.content_type)
    return form
