"""A ring of a model with recurrent layers: drafts that are cut off again, and the turns and branches of a chat."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import HYBRIDS, N_LAYERS, make_checkpoint
from tests.integration.runners import Ring, config, dial, request, start

pytestmark = pytest.mark.engine_mlx
CHUNK, CUT = 64, (0, 3, N_LAYERS)


@asynccontextmanager
async def ring(model: Path, **fields: Any) -> AsyncIterator[Ring]:
    """Two runners, told what their own shards can do."""
    shards = [{"start_layer": a, "end_layer": b, "n_layers": N_LAYERS} for a, b in pairwise(CUT)]
    wanted = {"engine": "mlx", "context": 256, "kv_tokens": 4 * 256, "max_chunk": CHUNK, **fields}
    processes = [await start(config(model, i, 2, shard=shard, **wanted)) for i, shard in enumerate(shards)]
    made = Ring(processes, [dial(process.address) for process in processes])
    try:
        ready = [process.events[-1] for process in processes]
        for stage in (1, 0):
            told = made.configuration(stage, 1)
            told.context, told.max_chunk, told.wire_dtype = 256, CHUNK, "float32"
            told.rollback_depth = min(one["rollback_depth"] for one in ready)
            await made.clients[stage].configure(told)
        yield made
    finally:
        for client in made.clients:
            await client.close()
        for process in processes:
            process.process.terminate()
        await asyncio.gather(*(process.ended() for process in processes))


async def ask(made: Ring, prompt: Sequence[int], tokens: int = 24) -> tuple[list[int], int]:
    """The greedy answer, and how much of the prompt was found in the shards."""
    deltas = [delta async for delta in made.clients[0].generate(request(prompt, tokens))]
    return [token for delta in deltas for token in delta.ids], deltas[0].cached_tokens


@pytest.mark.parametrize("family", HYBRIDS)
async def test_a_chat_with_drafts_and_its_branches(family: str, tmp_path: Path) -> None:
    """Guesses right and wrong, a second turn, one that leaves out the answer's end, three at once, a branch from far
    back: always the text of a ring that neither guesses nor keeps anything, and nothing near is computed twice."""
    model = make_checkpoint(family, tmp_path)
    shutil.copy(Path(str(resources.files("exo_node"))) / "models" / "demo" / "tokenizer.json", model)
    words = [int(i) for i in np.random.default_rng(0).integers(3, 160, 40)]
    async with ring(model, prefix_cache=True) as kept, ring(model, speculation=False) as plain:

        async def same(prompt: Sequence[int]) -> tuple[list[int], int]:
            found, wanted = await asyncio.gather(ask(kept, prompt), ask(plain, prompt))
            assert found[0] == wanted[0] and wanted[1] == 0
            return found

        first, cached = await same([*words, *words, *words])  # its ends were seen before: there are guesses
        assert cached == 0
        chat = [*words, *words, *words, *first]
        second, cached = await same([*chat, *words[:9]])
        assert cached == len(chat) - 1
        near = [*chat, *words[:9], *second[:-5]]
        assert (await same([*near, 7, 8, 9]))[1] == len(near)
        assert (await same([*words, *words, 5, 6]))[1] == 0
        await asyncio.gather(*(same([*chat, *words[:3], one]) for one in (11, 12, 13)))
        stats = await kept.stats()
        assert stats[0].scheduling.drafted_tokens > stats[0].scheduling.accepted_tokens
        assert all(0 < one.kv_bytes_used <= one.kv_bytes for one in stats)
