"""An answer cut at any token and continued by its ids is the same answer: the bundled model in a real runner."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from exo_node.api.ring_upstream import RingUpstream
from exo_node.config import Settings
from exo_node.models.config import normalise
from exo_node.models.headers import read_json
from exo_node.models.tokenizer import Tokenizer
from exo_node.ring.library import LoadedTokenizer
from exo_node.ring.local_backend import BackendDefaults, LocalBackend
from exo_node.ring.recovering import Recovered
from exo_node.routing.call import Attempt, Call, Partial
from exo_node.transport.ring_client import RingClient
from exo_node.types import Instance, ModelCard
from tests.integration.runners import CONTEXT, INSTANCE, Ring, config, dial, start

DEMO = Path(str(resources.files("exo_node"))) / "models" / "demo"
QUESTION = "What is exo?"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 30}, "tall": {"type": "boolean"}},
    "required": ["name", "tall"],
    "additionalProperties": False,
}


class OneRunner:
    """A cluster of one instance: one runner that is head and all."""

    def __init__(self, client: RingClient) -> None:
        self._client = client
        self._loaded = LoadedTokenizer(Tokenizer.load(DEMO), {})

    async def ready_instance(self, model: str) -> Instance:
        return Instance(
            instance_id=INSTANCE, model_id="demo", digest="", assignments=(), addresses=(), coordinator="", epoch=1,
            context=CONTEXT, slots=1, state="ready",
        )  # fmt: skip

    async def tokenizer(self, instance: Instance) -> LoadedTokenizer:
        return self._loaded

    def client(self, instance: Instance) -> RingClient:
        return self._client

    def models(self) -> list[ModelCard]:
        return []

    async def recover(self, instance: Instance) -> Recovered:
        raise AssertionError("the runner was lost")


def call(fields: Mapping[str, Any]) -> Call:
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": "demo", "messages": messages, "temperature": 0, "stream": True, "max_tokens": 60, **fields}
    return Call(
        id="c", kind="chat", model="demo", body=body, stream=True, deadline=float("inf"), prompt_tokens=3, max_tokens=60
    )


async def ask(
    upstream: RingUpstream, fields: Mapping[str, Any], partial: Partial | None = None
) -> list[tuple[str, tuple[int, ...]]]:
    """(text, ids) of each batch."""
    found = []
    async for batch in upstream.stream(Attempt(call=call(fields), timeout_s=60, partial=partial)):
        deltas = [choice["delta"] for event in batch.events for choice in event["choices"]]
        found.append(("".join(delta.get("content") or "" for delta in deltas), batch.token_ids))
    return found


@pytest.mark.engine_mlx
@pytest.mark.parametrize("fields", [{}, {"guided_json": PERSON, "temperature": 1, "seed": 4}])
async def test_an_answer_goes_on_after_any_token(tmp_path: Path, fields: dict[str, Any]) -> None:
    """With exact ids the continuation is the rest of the very answer, spaces included, wherever it was cut: greedy, and
    drawn under a grammar that the whole answer matches."""
    layers = normalise(read_json(DEMO / "config.json"))["num_hidden_layers"]
    shard = {"start_layer": 0, "end_layer": layers, "n_layers": layers}
    runner = await start(config(DEMO, 0, 1, model_id="demo", shard=shard, engine="mlx"))
    client = dial(runner.address)
    try:
        await Ring([runner], [client]).configure(1)
        backend = LocalBackend(OneRunner(client), BackendDefaults(60, None, None))
        upstream = RingUpstream(backend, Settings(home=tmp_path))
        whole = await ask(upstream, fields)
        text = "".join(piece for piece, _ in whole)
        assert len(text) > 40
        for cut in range(1, len(whole) - (0 if fields else 1)):  # a complete form has nothing to go on with
            had = "".join(piece for piece, _ in whole[:cut])
            ids = tuple(token for _, some in whole[:cut] for token in some)
            rest = await ask(upstream, fields, Partial(had, ids, len(ids)))
            assert had + "".join(piece for piece, _ in rest) == text, f"cut after {len(ids)} tokens"
    finally:
        await client.close()
        runner.process.terminate()
        await runner.ended()
