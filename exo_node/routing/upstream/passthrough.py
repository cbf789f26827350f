"""A deployment whose upstream speaks OpenAI's HTTP, asked directly; the LiteLLM sidecar is one more of them.

Bytes are relayed as they come; what failover, usage and profile need is read beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

import aiohttp
import orjson

from exo_node.routing import anthropic_extras
from exo_node.routing.call import Attempt, CallKind, UpstreamError, Whole
from exo_node.routing.deployment import Deployment
from exo_node.routing.upstream import links, wire_request
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.exchange import Exchange, Prepared, prepare
from exo_node.routing.upstream.sse_reader import SSEReader
from exo_node.routing.upstream.wire_errors import error_from_event, error_from_exception, error_from_response
from exo_node.routing.upstream.wire_stream import WireStream

CONNECT_S = 10.0  # a host that drops packets is no host; the profile's times begin long after
MAX_ERROR_BODY = 256 * 1024
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
        self._guards_links = unix_path is not None or links.follows_links(deployment.api_base)
        self._verify = deployment.params.get("ssl_verify") is not False
        self._parameters = wire_request.parameters_of(deployment)
        self._targets: dict[tuple[CallKind, bool, bool], wire_request.Target] = {}
        self._prepared: dict[tuple[CallKind, bool, bool], Prepared] = {}

    def stream(self, attempt: Attempt) -> WireStream:
        return WireStream(partial(self._ask, attempt, streamed=True), self._reader(), self._failure, self._no_stream)

    async def whole(self, attempt: Attempt) -> Whole:
        exchange = await self._ask(attempt, streamed=False)
        try:
            raw = await exchange.read()
        except (aiohttp.ClientError, OSError) as e:
            raise self._failure(e) from e
        finally:
            exchange.close()
        kind = exchange.content_type
        if kind != "application/json" and attempt.call.kind in _OPAQUE:
            if kind == "text/html" or (not raw and attempt.call.kind != "transcription"):
                what = "a web page" if raw else "nothing"  # a proxy's or a login's, or a wrong address
                raise UpstreamError(f"{self._deployment.id}: it answered with {what}", "malformed")
            return Whole(raw, None, kind)
        return Whole(raw, self._json(raw))

    async def _ask(self, attempt: Attempt, *, streamed: bool) -> Exchange:
        """Send the call; an answer with a good status, to be closed. Raises `UpstreamError`."""
        call = attempt.call
        if self._guards_links:
            call = await links.inlined_call(call, self._connections.images)
        local = self._unix_path is not None
        prefixed = attempt.partial is not None or anthropic_extras.needs_prefill(call.body)
        target = self._target(call.kind, prefixed, streamed)
        if local:
            body = wire_request.sidecar_body(self._deployment, call, attempt.partial)
        else:
            body = wire_request.body_of(self._deployment, call, attempt.partial, self._parameters)
        proxy = None if local else self._connections.proxy_for(target.url)
        exchange = Exchange()
        try:
            if call.files or proxy is not None:
                session = self._connections.session(self._unix_path)
                timeout = aiohttp.ClientTimeout(total=attempt.timeout_s, sock_connect=min(CONNECT_S, attempt.timeout_s))
                headers = _without(target.headers, "Content-Type") if call.files else target.headers
                data = _form(call.files, body) if call.files else _encoded(body)
                # A POST does not survive most redirects.
                await exchange.send(session, target.url, timeout, data=data, headers=headers, proxy=proxy,
                                    ssl=self._verify, allow_redirects=False)  # fmt: skip
            else:
                connector = self._connections.connector(self._unix_path)
                prepared = self._prepared.get((call.kind, prefixed, streamed))
                if prepared is None:
                    prepared = prepare(self._deployment.id, target.url, target.headers, verify=self._verify)
                    self._prepared[call.kind, prefixed, streamed] = prepared
                await exchange.post(connector, prepared, _encoded(body), attempt.timeout_s, CONNECT_S)
            if not 200 <= exchange.status < 300:
                await self._refused(exchange)
        except (aiohttp.ClientError, OSError) as e:  # TimeoutError is an OSError
            exchange.close()
            raise self._failure(e) from e
        except BaseException:
            exchange.close()
            raise
        return exchange

    def _failure(self, error: BaseException) -> UpstreamError:
        """What a socket's or an HTTP parser's error stands for."""
        return error_from_exception(self._deployment.id, error, unix=self._unix_path is not None)

    def _reader(self) -> SSEReader:
        return SSEReader(self._deployment.id, self._secrets, trusted=self._unix_path is not None)

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

    async def _refused(self, exchange: Exchange) -> NoReturn:
        content = exchange.content
        body = await content.read(MAX_ERROR_BODY)
        while not content.at_eof() and len(body) < MAX_ERROR_BODY:
            body += await content.read(MAX_ERROR_BODY - len(body))
        trusted = self._unix_path is not None
        raise error_from_response(
            self._deployment.id, exchange.status, exchange.headers, body, self._secrets, trusted=trusted
        )

    def _json(self, raw: bytes) -> dict[str, Any]:
        """Raises `UpstreamError`, also for an error that came with a good status."""
        try:
            data = orjson.loads(raw)
        except orjson.JSONDecodeError as e:
            raise UpstreamError(f"{self._deployment.id}: its answer is not JSON", "malformed") from e
        if not isinstance(data, dict):
            raise UpstreamError(f"{self._deployment.id}: its answer is no JSON object", "malformed")
        if data.get("error") or data.get("object") == "error":  # the latter: vLLM before 0.10
            raise error_from_event(self._deployment.id, data, self._secrets, trusted=self._unix_path is not None)
        return data

    def _no_stream(self, raw: bytes) -> None:
        self._json(raw)
        raise UpstreamError(f"{self._deployment.id}: it was asked for a stream and sent one object", "malformed")


def _encoded(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # half of a surrogate pair, which a client may send in a field that we do not read
        return json.dumps(value).encode()


def _without(headers: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key != name}


def _form(files: tuple[Any, ...], body: Mapping[str, Any]) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in body.items():
        each, field = (value, f"{name}[]") if isinstance(value, list) else ([value], name)  # OpenAI's way with arrays
        for one in each:
            form.add_field(field, one if isinstance(one, str) else _encoded(one).decode())
    for file in files:
        form.add_field(file.field, file.data, filename=file.filename, content_type=file.content_type)
    return form
