"""Prefix reuse where layers forget what lies behind their windows: the turns of a chat and its branches."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from exo_node.models.config import normalise
from exo_node.models.headers import read_json
from tests.checkpoints import make_checkpoint
from tests.integration.runners import Ring, config, dial, request, start

pytestmark = pytest.mark.engine_mlx
LONG, CHUNK, SLOTS = 1024, 64, 4


@asynccontextmanager
async def runner(model: Path, *, prefix_cache: bool) -> AsyncIterator[tuple[Ring, int]]:
    """A ring of one, told what its own shard can do; and its `whole_tokens`."""
    layers = normalise(read_json(model / "config.json"))["num_hidden_layers"]
    fields = {
        "shard": {"start_layer": 0, "end_layer": layers, "n_layers": layers},
        "engine": "mlx",
        "context": LONG,
        "kv_tokens": SLOTS * LONG,
        "max_chunk": CHUNK,
        "prefix_cache": prefix_cache,
    }
    process = await start(config(model, 0, 1, **fields))
    ready = process.events[-1]
    ring = Ring([process], [dial(process.address)])
    try:
        configuration = ring.configuration(0, 1)
        configuration.context, configuration.max_chunk = LONG, CHUNK
        configuration.rollback_depth, configuration.whole_tokens = ready["rollback_depth"], ready["whole_tokens"]
        await ring.clients[0].configure(configuration)
        yield ring, ready["whole_tokens"]
    finally:
        await ring.clients[0].close()
        process.process.terminate()
        await process.ended()


async def ask(ring: Ring, prompt: Sequence[int]) -> tuple[list[int], int]:
    """The greedy answer, and how much of the prompt was found in the shard."""
    deltas = [delta async for delta in ring.clients[0].generate(request(prompt, 20))]
    return [token for delta in deltas for token in delta.ids], deltas[0].cached_tokens


async def test_a_chat_goes_on_and_what_was_forgotten_is_computed_again(tmp_path: Path) -> None:
    """The second turn pays for its new tokens, a near branch and a short prompt are shared, a far branch is not: always
    the text of a ring that keeps nothing; memory stays within what was reported."""
    model = make_checkpoint("gemma3_text", tmp_path, max_position_embeddings=LONG)
    shutil.copy(Path(str(resources.files("exo_node"))) / "models" / "demo" / "tokenizer.json", model)
    words = [int(i) for i in np.random.default_rng(0).integers(3, 160, 700)]
    async with runner(model, prefix_cache=True) as (kept, whole), runner(model, prefix_cache=False) as (plain, _):
        assert 300 < whole < 400

        async def same(prompt: Sequence[int]) -> tuple[list[int], int]:
            found, wanted = await asyncio.gather(ask(kept, prompt), ask(plain, prompt))
            assert found[0] == wanted[0] and wanted[1] == 0
            return found

        first, cached = await same(words[:500])
        assert cached == 0
        chat = [*words[:500], *first, *words[600:630]]
        answer, cached = await same(chat)
        assert cached >= 519
        assert (await same([*words[:400], *words[640:660]]))[1] == 400
        assert (await same([*words[:100], *words[500:520]]))[1] == 0
        assert (await same([*words[:100], *words[540:560]]))[1] == 100
        both = await asyncio.gather(*(same([*chat, *answer, *words[650 + i : 680 + i]]) for i in range(2)))
        assert all(cached >= 569 for _, cached in both)
        stats = (await kept.stats())[0]
        assert 0 < stats.kv_bytes_used <= stats.kv_bytes == 4 * (6 * whole + LONG) * 2 * 2 * 16 * 4
