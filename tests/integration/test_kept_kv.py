"""A stage is lost in the middle of answers: the others keep what they hold, and only what is missing is computed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import ExoError, InvalidRequest, RingBroken
from exo_node.models.config import normalise
from exo_node.models.headers import read_json
from exo_node.transport.generated.exo.v1 import ring_pb2
from tests.integration.runners import CONTEXT, Ring, config, dial, generate, model_folder, request, ring, start

DEMO = Path(str(resources.files("exo_node"))) / "models" / "demo"
CHUNK = 16
PROMPTS = [tuple((7 * index + 3 * step) % 90 for step in range(5 + 11 * index)) for index in range(4)]


class Stream:
    """One generation, read as it comes."""

    def __init__(self, made: Ring, wanted: ring_pb2.GenerateRequest) -> None:
        self.first: ring_pb2.GenerateDelta | None = None
        self.ids = list(wanted.generated_ids)
        self.sequence = wanted.sequence
        self.error: ExoError | None = None
        self.some = asyncio.Event()
        self.wanted = wanted
        self.over = asyncio.create_task(self._read(made))

    async def _read(self, made: Ring) -> None:
        try:
            async for delta in made.clients[0].generate(self.wanted):
                assert delta.index == len(self.ids)
                self.first = self.first or delta
                self.ids.extend(delta.ids)
                self.sequence = delta.sequence or self.sequence
                if len(self.ids) - len(self.wanted.generated_ids) >= 6:
                    self.some.set()
        except ExoError as error:
            self.error = error
        finally:
            self.some.set()

    def resumed(self) -> ring_pb2.GenerateRequest:
        again = ring_pb2.GenerateRequest()
        again.CopyFrom(self.wanted)
        del again.generated_ids[:]
        again.generated_ids.extend(self.ids)
        again.sequence, again.attempt = self.sequence, self.wanted.attempt + 1
        return again


async def interrupted(made: Ring, count: int, tokens: int) -> list[Stream]:
    """Generations that have begun to answer."""
    streams = [Stream(made, request(prompt, tokens)) for prompt in PROMPTS[:count]]
    for stream in streams:
        await stream.some.wait()
    return streams


@asynccontextmanager
async def demo_ring(engines: list[str]) -> AsyncIterator[tuple[Ring, list[dict[str, Any]]]]:
    """The demo model over three stages, and what each was told; all reproducible."""
    layers = normalise(read_json(DEMO / "config.json"))["num_hidden_layers"]
    cuts = pairwise([0, layers // 3, 2 * layers // 3, layers])
    shards = [{"start_layer": begin, "end_layer": end, "n_layers": layers} for begin, end in cuts]
    told = [
        config(DEMO, stage, 3, model_id="demo", shard=shard, engine=engine, reproducible=True, max_chunk=CHUNK)
        for stage, (shard, engine) in enumerate(zip(shards, engines, strict=True))
    ]
    runners = list(await asyncio.gather(*(start(fields) for fields in told)))
    made = Ring(runners, [dial(runner.address) for runner in runners])
    try:
        yield made, told
    finally:
        for client in made.clients:
            await client.close()
        for runner in made.runners:
            runner.process.terminate()
            await runner.ended()


@pytest.mark.engine_mlx
@pytest.mark.parametrize(
    "engines",
    [
        ["mlx", "mlx", "mlx"],
        pytest.param(["mlx", "mlx", "tinygrad"], marks=[pytest.mark.engine_tinygrad, pytest.mark.soak]),
    ],
    ids="-".join,
)
async def test_answers_go_on_to_the_same_bytes(engines: list[str]) -> None:
    """Four answers, the middle stage killed: only a fresh one computes again what was there, and where bits must not
    change every answer is that of a ring which lost nothing."""
    async with demo_ring(engines) as (made, told):
        await made.recover(1, max_chunk=CHUNK, wire_dtype="float32")
        whole = await asyncio.gather(*(generate(made.clients[0], request(prompt, 60)) for prompt in PROMPTS))
        streams = await interrupted(made, 4, 60)
        await made.replace(1, told[1])
        for stream in streams:
            await stream.over
            assert isinstance(stream.error, ExoError) and stream.error.retryable
        before = await made.stats()
        kept = {one.sequence: one.length for one in await made.recover(2, 1, max_chunk=CHUNK, wire_dtype="float32")}
        again = [Stream(made, stream.resumed()) for stream in streams]
        computed = [0, 0]
        for stream, (ids, _) in zip(again, whole, strict=True):
            await stream.over
            assert stream.error is None, stream.error
            assert stream.ids == ids
            known = len(stream.wanted.prompt_ids) + len(stream.wanted.generated_ids)
            assert stream.first is not None and stream.first.replayed_tokens == known - 1
            assert stream.sequence == stream.wanted.sequence, "it goes on where it was"
            total = len(stream.wanted.prompt_ids) + len(stream.ids) - 1
            computed[0] += total - min(kept[stream.sequence], known - 1)
            computed[1] += total
        after = await made.stats()
        assert computed[0] < computed[1] - sum(map(len, PROMPTS))
        assert [b.computed_tokens - a.computed_tokens for a, b in zip(before, after, strict=True)] == [
            computed[0],
            computed[1],
            computed[0],
        ]


@pytest.mark.soak
async def test_whichever_stage_is_lost(tmp_path: Path) -> None:
    """A follower, the head, the last stage, one after the other: the texts go on as if nothing had been; and no stage
    is left with anything, though nobody came back for one of the sequences."""
    model = model_folder(tmp_path, fake_step_seconds=0.002)
    async with ring(model, 3) as made:
        whole = await asyncio.gather(*(generate(made.clients[0], request(prompt, 60)) for prompt in PROMPTS))
        for counter, lost in enumerate((1, 0, 2), 2):
            streams = await interrupted(made, 4, 60)
            await made.replace(lost, config(model, lost, 3))
            assert len(await made.recover(counter, lost)) == 4
            for stream in streams:
                await stream.over
                assert stream.error is not None
            again = [Stream(made, stream.resumed()) for stream in streams[:3]]
            for stream, (ids, _) in zip(again, whole, strict=False):
                await stream.over
                assert (stream.error, stream.ids) == (None, ids)
            others = await asyncio.gather(*(generate(made.clients[0], request((one,), 8)) for one in range(5)))
            assert all(finish == "length" for _, finish in others)
            await made.settled()  # the orphan gave its slot up


async def test_a_fence_finds_a_step_running(tmp_path: Path) -> None:
    """Answers end at once with the reason, what the step computed is held and told truly, and the next fence tells the
    same; an older Configure is refused, that of the fence is taken once, and all goes on from there."""
    async with ring(model_folder(tmp_path, fake_step_seconds=0.02), 2) as made:
        whole, _ = await generate(made.clients[0], request(PROMPTS[2], 30))
        (stream,) = [Stream(made, request(PROMPTS[2], 30))]
        await stream.some.wait()
        first = await made.fence(3)
        await stream.over
        assert isinstance(stream.error, RingBroken) and stream.error.code == "stale_epoch"
        assert whole[: len(stream.ids)] == stream.ids
        with pytest.raises(RingBroken) as caught:
            await generate(made.clients[0], request((1,)))
        assert caught.value.code == "stale_epoch"
        second = await made.fence(4)
        assert second == first
        lengths = [answer.held[0].length for answer in first]
        assert lengths[0] >= lengths[1] >= len(PROMPTS[2]) + len(stream.ids) - 1
        assert {answer.highest for answer in first} == {2}
        for stage, counter in ((0, 3), (1, 3), (0, 1)):
            with pytest.raises(RingBroken, match="not newer"):
                await made.clients[stage].configure(made.configuration(stage, counter))
        impossible = made.configuration(1, 4)
        impossible.kept.add(sequence=2, length=lengths[1] + 1, most=CONTEXT)
        with pytest.raises(RingBroken) as caught:
            await made.clients[1].configure(impossible)
        assert (caught.value.code, caught.value.status) == ("cannot_keep", 409)
        low = made.configuration(0, 4)
        low.kept.add(sequence=2, length=1, most=1)
        with pytest.raises(InvalidRequest, match="next_sequence"):
            await made.clients[0].configure(low)
        kept = await made.recover(5)
        assert [(one.sequence, one.length) for one in kept] == [(2, lengths[1])]
        with pytest.raises(RingBroken, match="not newer"):
            await made.clients[0].configure(made.configuration(0, 5))
        resumed = Stream(made, stream.resumed())
        await resumed.over
        assert (resumed.error, resumed.ids) == (None, whole)
        assert resumed.first is not None and resumed.first.replayed_tokens <= 1
