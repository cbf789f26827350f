"""A backend and a cluster that do as they are told, for tests of the API and the command line."""

from __future__ import annotations

import asyncio
import struct
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from exo_node.api.app import ChatGPTAPI
from exo_node.api.ports import ClusterPort, Progress, RoutingPort, StageProgress
from exo_node.api.server import Patience, ServerSite
from exo_node.config import Settings
from exo_node.errors import ExoError, ModelNotFound, NoCapacity
from exo_node.store import Store, store_path
from exo_node.store_audit import AuditTable
from exo_node.types import (
    Backend,
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    ModelCard,
    TokenDelta,
    TokenLogprob,
    Usage,
)
from tests.unit.api.scripted_routing import ScriptedRouting

Step = TokenDelta | float | Exception | asyncio.Event  # a delta, seconds to wait, a failure, or wait for an event
END = TokenDelta(finish_reason="stop", usage=Usage(3, 2, 1))


def logprob(token: str, value: float = -0.5, *others: str) -> TokenLogprob:
    """A token's logprob with itself and `others` as the likeliest."""
    top = tuple((text, text.encode(), value - i) for i, text in enumerate((token, *others)))
    return TokenLogprob(token, 7, value, token.encode(), top)


class ScriptedBackend:
    """Answers every request with `script(request)`, or with the rest of the one script after the request's prefix.

    Remembers the requests, and how many generators are open.
    """

    def __init__(
        self, script: Callable[[GenerationRequest], Sequence[Step]] | Sequence[Step], delay: float = 0
    ) -> None:
        self.script = script
        self.delay = delay
        self.requests: list[GenerationRequest] = []
        self.embedded: list[EmbeddingRequest] = []
        self.open = 0
        self.cards = [
            ModelCard("demo", 1700000000, "exo", 512, True, "/models/demo", ("exo-demo",)),
            ModelCard("org/name", 1700000001, "hub", None, False),
        ]
        self.models_error: Exception | None = None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        self.requests.append(request)
        self.open += 1
        given = "" if callable(self.script) else request.prefix  # the ring goes on after what the caller has
        echo = str(request.prompt) if request.echo else ""
        try:
            for step in self.script(request) if callable(self.script) else self.script:
                await asyncio.sleep(self.delay)
                match step:
                    case TokenDelta() if step.text and given.startswith(step.text):
                        given = given.removeprefix(step.text)
                    case TokenDelta():
                        yield replace(step, echo=echo) if echo else step
                        echo = ""
                    case asyncio.Event():
                        await step.wait()
                    case Exception():
                        raise step
                    case _:
                        await asyncio.sleep(step)
        finally:
            self.open -= 1

    async def encode(self, request: GenerationRequest) -> tuple[list[int], str]:
        """An id for each word."""
        self.requests.append(request)
        text = " ".join(str(message["content"]) for message in request.messages or ())
        return list(range(len(text.split()))), text

    async def count_tokens(self, request: GenerationRequest) -> int:
        """Three for a message, and a text's words."""
        self.requests.append(request)
        said = [str(message["content"]) for message in request.messages or ()]
        return 3 * len(said) + sum(len(text.split()) for text in (*said, request.prefix))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """(0.6, 0.8) for each input; a token each."""
        self.embedded.append(request)
        return Embeddings((struct.pack("<2f", 0.6, 0.8),) * len(request.inputs), len(request.inputs))

    async def models(self) -> list[ModelCard]:
        if self.models_error is not None:
            raise self.models_error
        return self.cards


class ScriptedCluster:
    """One node, and whatever instances are placed. `progress` is told before `place` answers."""

    def __init__(self, api_url: str = "") -> None:
        self.node_id = "node-a"
        self.api_url = api_url
        self.placed: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []
        self.progress: list[dict[str, Any]] = []
        self.error: ExoError | None = None
        self.hold: asyncio.Event | None = None
        self.cancelled = False
        self.status = "ok"
        self.fetchable: dict[str, list[tuple[str, int, int]]] = {}  # model -> what a fetch of it reports
        self.fetched: list[str] = []
        self.copied: list[tuple[str, str]] = []
        self.elsewhere: dict[str, list[str]] = {}  # node -> the models that it holds
        self.ended = False
        self.rotated: dict[str, Any] = {"configured": [], "failed": {}}
        self.drained: list[tuple[str, bool]] = []
        self.stuck: dict[str, str] = {}

    def topology(self) -> dict[str, Any]:
        node = {
            "name": "box", "chip": "cpu", "memory": 8000, "memory_total": 8_000_000_000, "memory_free": 6_000_000_000,
            "engines": ["mlx", "tinygrad"], "blas": "openblas", "version": "0.1.0", "addresses": ["127.0.0.1"],
            "grpc_port": 1, "api_port": 2, "devices": [],
        }  # fmt: skip
        return {
            "nodes": {self.node_id: node},
            "peer_graph": {self.node_id: []},
            "active_node_id": self.node_id,
            "instances": self.placed,
        }

    def health(self) -> dict[str, Any]:
        return {"status": self.status, "node_id": self.node_id}

    def instances(self) -> list[dict[str, Any]]:
        return self.placed

    async def rotate_key(self, phrase: str | None, without: Sequence[str], patience_s: float) -> dict[str, Any]:
        self.calls.append({"phrase": phrase, "without": without, "patience_s": patience_s})
        return {"fingerprint": "f" * 32, "nodes": ["node-a"], "patience_s": patience_s, **self.rotated}

    async def instance_stats(self, instance_id: str) -> list[dict[str, Any]] | None:
        known = any(instance["id"] == instance_id for instance in self.placed)
        scheduling = {
            "kv_tokens": 4096, "kv_tokens_used": 1024, "prompt_tokens": 2000, "prefix_hit_tokens": 1500, "evictions": 2,
            "preemptions": 1, "drafted_tokens": 40, "accepted_tokens": 30, "micro_batches": 3,
        }  # fmt: skip
        head = {"node_id": "node-a", "stage": 0, "slots_used": 0, "running": 1, "waiting": 2, "scheduling": scheduling}
        return [head] if known else None

    def recoveries(self) -> list[dict[str, Any]]:
        row = {
            "instance_id": "inst-1", "model": "demo", "request_id": "r", "epoch": 2, "cause": "stage 1 is gone",
            "noticed_s": 1.0, "fence_ms": 1.0, "plan_ms": 1.0, "load_ms": 500.0, "connect_ms": 9.0, "loaded": [1],
            "waited_ms": 520.0, "replayed_tokens": 40, "known_tokens": 41, "gap_ms": 560.0,
        }  # fmt: skip
        return [row, {**row, "model": "secret"}]

    async def drain(self, node_id: str, *, undo: bool) -> dict[str, Any]:
        self.drained.append((node_id, undo))
        if self.error is not None:
            raise self.error
        return {"moved": ["inst-1"], "failed": dict(self.stuck)}

    async def head_stats(self) -> list[dict[str, Any]]:
        return [{"instance": one["id"], "model": one["model"]} for one in self.placed]

    async def place(
        self,
        model: str,
        *,
        min_nodes: int,
        nodes: tuple[str, ...],
        engines: tuple[str, ...],
        reuse: bool = False,
        instance_id: str = "",
        quantize: int = 0,
        draft_model: str = "",
        spares: bool = False,
        on_progress: Progress | None = None,
    ) -> dict[str, Any]:
        call = {"model": model, "min_nodes": min_nodes, "nodes": nodes, "engines": engines}
        wishes = {"reuse": reuse, "quantize": quantize, "draft_model": draft_model, "spares": spares}
        self.calls.append(call | {name: wish for name, wish in wishes.items() if wish})
        for event in self.progress:
            if on_progress is not None:
                on_progress(event)
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        if self.error is not None:
            raise self.error
        if model == "nope":
            raise ModelNotFound("no model 'nope'; there are: demo", param="model")
        shard = {"node_id": "node-a", "engine": "mlx", "device": "CPU", "start_layer": 0, "end_layer": 8, "n_layers": 8}
        ident = instance_id or f"inst-{len(self.placed)}"
        instance = {"id": ident, "object": "instance", "model": model, "state": "ready", "context": 512,
                    "slots": 8, "epoch": 1, "shards": [shard], "error": None}  # fmt: skip
        self.placed.append(instance)
        return instance

    async def preview(self, model: str, *, min_nodes: int) -> dict[str, Any]:
        if model == "nope":
            raise ModelNotFound("no model 'nope'; there are: demo", param="model")
        if min_nodes > 1:
            raise NoCapacity("not enough nodes")
        shard = {"node_id": "node-a", "engine": "mlx", "device": "CPU", "start_layer": 0, "end_layer": 8, "n_layers": 8}
        return {"model": model, "context": 512, "slots": 8, "shards": [shard], "stage_bytes": [1000]}

    async def describe_at(self, node_id: str, model: str, *, fetch: bool) -> dict[str, Any]:
        if model not in self.elsewhere.get(node_id, ()):
            raise ModelNotFound(f"no model {model!r}", param="model")
        return {"model": model, "bytes": 1000, "n_layers": 8}

    def quit(self) -> None:
        self.ended = True

    async def remove(self, instance_id: str) -> bool:
        kept = [instance for instance in self.placed if instance["id"] != instance_id]
        found = len(kept) != len(self.placed)
        self.placed = kept
        return found

    def aliases(self) -> Mapping[str, str]:
        return {"llama-3.2-1b": "org/Llama-1B"}

    async def fetch_model(self, model: str, on_progress: StageProgress) -> str:
        if model not in self.fetchable:
            raise ModelNotFound(f"no model {model!r}", param="model")
        for stage, done, total in self.fetchable[model]:
            on_progress(stage, done, total)
        self.fetched.append(model)
        return model

    async def copy_model(self, source: str, name: str) -> None:
        self.copied.append((source, name))

    async def delete_model(self, model: str) -> str:
        if model not in self.fetched:
            raise ModelNotFound(f"no model {model!r}", param="model")
        self.fetched.remove(model)
        return model


@asynccontextmanager
async def serve_api(
    backend: Backend,
    cluster: ClusterPort | None = None,
    routing: RoutingPort | None = None,
    *,
    patience: Patience | None = None,
    **settings: Any,
) -> AsyncIterator[str]:
    """See `serve_whole`; gives the base URL only."""
    async with serve_whole(backend, cluster, routing, patience=patience, **settings) as (url, _):
        yield url


@asynccontextmanager
async def serve_whole(
    backend: Backend,
    cluster: ClusterPort | None = None,
    routing: RoutingPort | None = None,
    *,
    patience: Patience | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[str, ChatGPTAPI]]:
    """The real server on an ephemeral port of loopback, as the daemon runs it; gives its base URL, and itself.

    Without `routing` there is the ring only.
    """
    with tempfile.TemporaryDirectory() as folder:
        chosen = Settings(**{"home": Path(folder), **settings})
        store = Store(store_path(chosen.home))
        routing = routing or ScriptedRouting(backend, chosen)
        api = ChatGPTAPI(chosen, backend, cluster or ScriptedCluster(), routing, store, AuditTable(store))
        runner = web.AppRunner(api.app, handler_cancellation=True, access_log=None)
        await runner.setup()
        try:
            await ServerSite(runner, "127.0.0.1", 0, patience=patience).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}", api
        finally:
            await runner.cleanup()
            store.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the suite's own time limit ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 (any condition, not only those that set an event)
        await asyncio.sleep(0.005)
