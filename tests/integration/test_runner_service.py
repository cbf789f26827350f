"""`RingService` of real runner processes: text, company, cancelling, fencing, and stages that die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from exo_node.engine.base import EngineRow, LoadPlan
from exo_node.engine.fake import FakeEngine
from exo_node.errors import ExoError, InvalidRequest, NotFound, Overloaded, PeerUnavailable, RingBroken, Unauthorized
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.transport.ring_client import RingClient
from exo_node.types import Shard
from tests.integration.runners import (
    CONTEXT,
    HIDDEN,
    INSTANCE,
    LAYERS,
    SLOTS,
    VOCAB,
    dial,
    generate,
    model_folder,
    request,
    ring,
)


@lru_cache
def expected(prompt: tuple[int, ...], count: int) -> list[int]:
    """The greedy answer by the whole model in this process, token by token."""
    engine = FakeEngine()
    sizes = {"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "vocab_size": VOCAB}
    shard = Shard("fake-model", 0, LAYERS, LAYERS)
    engine.load(
        LoadPlan(
            config=sizes,
            shard=shard,
            is_head=True,
            compute_dtype="float32",
            slots=1,
            context=CONTEXT,
            max_chunk=CONTEXT,
            device="CPU",
        ),
        None,
        lambda done, total: None,
    )
    tokens: Sequence[int] = prompt
    cached = 0
    out: list[int] = []
    for _ in range(count):
        row = EngineRow(0, cached, len(tokens), np.asarray(tokens, np.int32), 1)
        out.append(int(np.argmax(engine.logits(engine.forward([row], None))[0])))
        cached += len(tokens)
        tokens = out[-1:]
    return out


PROMPTS = [tuple((7 * index + step) % VOCAB for step in range(1 + 9 * index)) for index in range(8)]


@pytest.mark.parametrize("n_stages", [1, 3])
async def test_eight_at_once_get_the_text_of_the_whole_model(tmp_path: Path, n_stages: int) -> None:
    """Alone or in company of more requests than slots, over one process or three: the same text; slots come back."""
    async with ring(model_folder(tmp_path), n_stages) as made:
        head = made.clients[0]
        assert await generate(head, request(PROMPTS[2])) == (expected(PROMPTS[2], 24), "length")
        answers = await asyncio.gather(*(generate(head, request(prompt)) for prompt in PROMPTS))
        assert answers == [(expected(prompt, 24), "length") for prompt in PROMPTS]
        stats = await made.settled()
        assert [one.cached_tokens for one in stats] == [0] * n_stages
        assert stats[0].tokens == 24 * 9
        sample = stats[0].hops[-1]
        assert [report.stage for report in sample.reports] == list(range(n_stages))


async def test_a_generation_goes_on_from_delivered_tokens(tmp_path: Path) -> None:
    """Resume: the delivered ids are not sent again and the rest is the same."""
    whole = expected(PROMPTS[3], 24)
    async with ring(model_folder(tmp_path), 3) as made:
        answer = await generate(made.clients[0], request(PROMPTS[3], generated_ids=whole[:10]))
        assert answer == (whole[10:], "length")
        stopped = await generate(made.clients[0], request(PROMPTS[3], stop_ids=[whole[5]]))
        cut = whole.index(whole[5]) + 1
        assert stopped == (whole[:cut], "stop")


@pytest.mark.parametrize("n_stages", [1, 3])
async def test_a_caller_that_goes_frees_its_slots_everywhere(tmp_path: Path, n_stages: int) -> None:
    """Closing the iterator cancels on every shard, long before max_tokens, and so does a broken connection."""
    async with ring(model_folder(tmp_path, fake_step_seconds=0.002), n_stages) as made:
        for way in ("close", "disconnect"):
            client = dial(made.clients[0].address)
            stream = client.generate(request((1, 2, 3), 400))
            assert (await anext(stream)).ids
            assert sum(one.slots_used for one in await made.stats()) >= 1
            await (stream.aclose() if way == "close" else client.close())
            stats = await made.settled()
            assert (stats[0].running, stats[0].waiting) == (0, 0)
            assert stats[0].tokens < 400
            await client.close()


async def test_a_slow_reader_never_holds_up_the_others(tmp_path: Path) -> None:
    """Deltas wait for their reader; the ring waits for nobody."""
    async with ring(model_folder(tmp_path), 3) as made:
        head = made.clients[0]
        slow = head.generate(request((5, 6), 300, "slow"))
        first = list((await anext(slow)).ids)
        assert await generate(head, request((1, 2), 40)) == (expected((1, 2), 40), "length")
        async for delta in slow:
            first.extend(delta.ids)
        assert first == expected((5, 6), 300)


async def test_only_members_of_the_instance_may_speak(tmp_path: Path) -> None:
    """Every call without the right token is refused; another instance's id is not found."""
    async with ring(model_folder(tmp_path), 1) as made:
        stranger = dial(made.clients[0].address, b"guess")
        with pytest.raises(Unauthorized):
            await stranger.stats()
        with pytest.raises(Unauthorized):
            await stranger.configure(made.configuration(0, 9))
        with pytest.raises(Unauthorized):
            await generate(stranger, request((1,)))
        await stranger.close()
        wrong = request((1,))
        wrong.instance_id = "another"
        with pytest.raises(NotFound, match="another"):
            await generate(made.clients[0], wrong)


async def test_a_stale_epoch_is_refused_and_a_newer_one_takes_over(tmp_path: Path) -> None:
    """Runners accept only a larger (counter, coordinator); running generations end with an error, new ones run."""
    async with ring(model_folder(tmp_path, fake_step_seconds=0.002), 3) as made:
        head = made.clients[0]
        running = head.generate(request((1, 2, 3), 400))
        await anext(running)
        for stage, client in enumerate(made.clients):
            with pytest.raises(RingBroken) as caught:
                await client.configure(made.configuration(stage, 1))
            assert (caught.value.code, caught.value.status) == ("stale_epoch", 409)
        assert (await anext(running)).ids, "a refused epoch must not disturb the running one"
        await made.configure(2)
        with pytest.raises(ExoError) as ended:
            async for _ in running:
                pass
        assert ended.value.retryable
        assert await generate(head, request((1, 2, 3), 5)) == (expected((1, 2, 3), 5), "length")
        assert {one.epoch.counter for one in await made.stats()} == {2}


async def test_the_order_of_configuring_does_not_matter(tmp_path: Path) -> None:
    """A stage that is sent to before its own Configure waits for it."""
    async with ring(model_folder(tmp_path), 3, configure=False) as made:
        await made.configure(1, order=[0, 1, 2])
        assert await generate(made.clients[0], request((4, 5))) == (expected((4, 5), 24), "length")


@pytest.mark.parametrize("victim", [1, 2])
async def test_a_stage_that_dies_is_named_to_every_caller_at_once(tmp_path: Path, victim: int) -> None:
    """All generations fail with `PeerUnavailable` that names the stage; the rest lives on and says so."""
    async with ring(model_folder(tmp_path, fake_step_seconds=0.002), 3) as made:
        head = made.clients[0]
        streams = [head.generate(request((index, 2, 3), 400)) for index in range(3)]
        for stream in streams:
            await anext(stream)
        made.runners[victim].process.kill()
        begun = time.monotonic()
        for stream in streams:
            with pytest.raises(PeerUnavailable, match=f"stage {victim}"):
                async for _ in stream:
                    pass
        assert time.monotonic() - begun < 20  # no timeout of any kind was waited for
        with pytest.raises(PeerUnavailable, match=f"stage {victim}"):
            await generate(head, request((1,)))
        assert (await head.stats()).running == 0


async def test_a_dead_stage_is_noticed_without_any_traffic(tmp_path: Path) -> None:
    """The next request after an idle time fails at once instead of hanging."""
    async with ring(model_folder(tmp_path), 3) as made:
        await generate(made.clients[0], request((1,), 2))
        made.runners[2].process.kill()
        await made.runners[2].ended()
        async with asyncio.timeout(20):
            while True:
                try:
                    await generate(made.clients[0], request((1,), 2))
                except PeerUnavailable as error:
                    assert "stage 2" in error.message
                    break


async def test_an_engine_that_fails_is_named_and_the_runner_lives_on(tmp_path: Path) -> None:
    """The error of a stage comes home with its number; a new epoch works again."""
    async with ring(model_folder(tmp_path, fake_fail_at=20), 3) as made:
        with pytest.raises(RingBroken, match=r"stage 0: fake: RuntimeError: fake failure at position 20"):
            await generate(made.clients[0], request((1,) * 6))
        await made.configure(2)
        assert await generate(made.clients[0], request((1,) * 6, 10)) == (expected((1,) * 6, 10), "length")


async def test_bad_requests_are_refused_by_name(tmp_path: Path) -> None:
    """A prompt over the context with both numbers; a request to a follower; a Configure that cannot be."""
    async with ring(model_folder(tmp_path), 3) as made:
        with pytest.raises(InvalidRequest, match=f"600 tokens.*{CONTEXT}"):
            await generate(made.clients[0], request((1,) * 600))
        with pytest.raises(InvalidRequest, match="not the head"):
            await generate(made.clients[1], request((1,)))
        for field, value in (("slots", SLOTS + 1), ("wire_dtype", "float8"), ("stage", 1), ("next_address", "")):
            wrong = made.configuration(0, 5)
            setattr(wrong, field, value)
            with pytest.raises(ExoError, match=f"{value}|{field}|stage 0"):
                await made.clients[0].configure(wrong)
        assert await generate(made.clients[0], request((1,), 3)) == (expected((1,), 3), "length")


async def test_time_runs_out(tmp_path: Path) -> None:
    """A deadline travels as remaining milliseconds and ends the generation on the head."""
    async with ring(model_folder(tmp_path, fake_step_seconds=0.01), 1) as made:
        with pytest.raises(ExoError) as caught:
            await generate(made.clients[0], request((1, 2), 400, timeout_ms=150))
        assert caught.value.status == 504
        await made.settled()


async def _waiting(client: RingClient, count: int) -> None:
    """Until so many requests wait for a slot."""
    while (await client.stats()).waiting < count:  # noqa: ASYNC110 (what waits is another process's)
        await asyncio.sleep(0.01)


async def test_a_full_queue_refuses_with_the_wait_and_takes_back_what_goes_on(tmp_path: Path) -> None:
    """Over the wire: 429 with the seconds until the queue has had its turn; an answer that goes on finds a place."""
    async with ring(model_folder(tmp_path, fake_step_seconds=0.005), 1, max_waiting=2) as made:
        client = made.clients[0]
        running = [client.generate(request((one, 2), 300, str(one), client=f"key-{one}")) for one in range(SLOTS)]
        for stream in running:
            await anext(stream)
        waiting = [asyncio.create_task(generate(client, request((9, one), 300, f"w{one}"))) for one in range(2)]
        await _waiting(client, 2)
        with pytest.raises(Overloaded, match="2 requests wait for this model already") as refused:
            await generate(client, request((8, 8), 5, "refused"))
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        # Four run for 300 steps of 5 ms; the two that wait take two of their places, so a third one is free as soon.
        assert refused.value.retry_after is not None
        assert 0.3 < refused.value.retry_after < 30.0
        going_on = request((8, 8), 3, "goes on", generated_ids=expected((8, 8), 2))
        more = asyncio.create_task(generate(client, going_on))
        await _waiting(client, 3)
        for stream in running:
            await stream.aclose()
        assert await more == (expected((8, 8), 3)[2:], "length")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_the_newest_attempt_wins(tmp_path: Path) -> None:
    """A second attempt of a request ends the first one."""
    async with ring(model_folder(tmp_path, fake_step_seconds=0.002), 1) as made:
        first = made.clients[0].generate(request((1, 2), 400, "same"))
        await anext(first)
        second = asyncio.create_task(generate(made.clients[0], request((1, 2), 6, "same", attempt=1)))
        with pytest.raises(RingBroken, match="taken over"):
            async for _ in first:
                pass
        assert await second == (expected((1, 2), 6), "length")


async def test_a_stage_tells_how_it_sends_and_refuses_to_pack_what_it_must_not(tmp_path: Path) -> None:
    """Packed rows are read by a real next stage; neither the last stage nor a reproducible one packs."""
    async with ring(model_folder(tmp_path), 2, configure=False) as made:
        last, head = made.configuration(1, 1), made.configuration(0, 1)
        last.int8_rows = head.int8_rows = True
        with pytest.raises(InvalidRequest, match="pack nothing"):
            await made.clients[1].configure(last)
        last.int8_rows = False
        await made.clients[1].configure(last)
        await made.clients[0].configure(head)
        tokens, finish = await generate(made.clients[0], request(PROMPTS[4], 6))
        assert (len(tokens), finish) == (6, "length")
        assert [one.info["wire"] for one in await made.stats()] == ["bfloat16, prompts as int8", "bfloat16"]
    async with ring(model_folder(tmp_path), 2, configure=False, reproducible=True) as made:
        with pytest.raises(InvalidRequest, match="pack nothing"):
            await made.clients[0].configure(head)


async def test_a_runner_that_is_in_no_ring_says_so(tmp_path: Path) -> None:
    """Before Configure there is nothing to generate with."""
    async with ring(model_folder(tmp_path), 1, configure=False) as made:
        with pytest.raises(RingBroken, match="waits for its Configure"):
            await generate(made.clients[0], ring_pb2.GenerateRequest(instance_id=INSTANCE, prompt_ids=[1]))
