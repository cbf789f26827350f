"""Who is gone, and who only hangs, is noticed: by real runners and nodes that are killed, stopped or stuck."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from exo_node.errors import ExoError, PeerUnavailable, RingBroken
from exo_node.ring.liveness import STATUS
from exo_node.ring.messages import Epoch
from exo_node.ring.streams import Outbound
from exo_node.transport.codec import StepFrame
from exo_node.transport.generated.exo.v1 import ring_pb2
from tests.integration.harness import NodeProcess, nodes
from tests.integration.runners import Ring, generate, model_folder, request, ring
from tests.papers import tls

SILENCE_S = 1.0
BREAK_S, BETWEEN_S = 0.3, 0.4
PROMPT = (3, 1, 4, 1, 5)


def pause(pid: int) -> None:
    """Stop a process for `BREAK_S`. Skips the test where this machine makes that longer than what it is about."""
    begun = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(BREAK_S)
    os.kill(pid, signal.SIGCONT)
    if (took := time.monotonic() - begun) > 2 * BREAK_S:
        pytest.skip(f"this machine is too busy: a break of {BREAK_S} s took {took:.1f} s")


@asynccontextmanager
async def impatient_ring(model: Path, n_stages: int, silence: float = SILENCE_S) -> AsyncIterator[Ring]:
    """A ring whose runners count as gone after so much silence; whoever is left of it is killed at the end."""
    async with ring(model, n_stages, configure=False) as made:
        for stage in reversed(range(n_stages)):
            message = made.configuration(stage, 1)
            message.silence_ms = round(silence * 1000)
            await made.clients[stage].configure(message)
        try:
            yield made
        finally:
            for runner in made.runners:
                if runner.process.returncode is None:
                    runner.process.send_signal(signal.SIGCONT)


async def failure(made: Ring, happens: Callable[[], Any] = lambda: None) -> tuple[ExoError, float]:
    """How a generation that is under way fails, and how long after `happens()`."""
    stream = made.clients[0].generate(request(PROMPT, 400))
    for _ in range(3):
        await anext(stream)
    happens()
    begun = time.monotonic()
    with pytest.raises(ExoError) as caught:
        async for _ in stream:
            pass
    return caught.value, time.monotonic() - begun


@pytest.mark.parametrize(("n_stages", "layer", "stage"), [pytest.param(1, 0, 0, marks=pytest.mark.soak), (3, 2, 1)])
async def test_an_engine_that_hangs_is_named_and_ends(tmp_path: Path, n_stages: int, layer: int, stage: int) -> None:
    """Its transport answers every ping; callers hear which stage it is, and the process gives its memory back."""
    model = model_folder(tmp_path, fake_step_seconds=0.002, fake_hang_at=100, fake_hang_layer=layer)
    async with impatient_ring(model, n_stages) as made:
        error, _ = await failure(made)
        assert isinstance(error, RingBroken)
        assert error.code == "engine_hangs"
        assert f"stage {stage}: its engine hangs" in error.message
        assert await made.runners[stage].ended() == STATUS
        alive = [runner.process.returncode is None for runner in made.runners]
        assert alive == [number != stage for number in range(n_stages)]


@pytest.mark.parametrize("stage", [0, 1])
async def test_a_stopped_runner_is_noticed_by_its_silence(tmp_path: Path, stage: int) -> None:
    """SIGSTOP: its connections stay open and it answers no ping. Whoever waits for it is told."""
    async with impatient_ring(model_folder(tmp_path, fake_step_seconds=0.002), 2) as made:
        pid = made.runners[stage].process.pid
        error, seconds = await failure(made, lambda: os.kill(pid, signal.SIGSTOP))
        assert isinstance(error, PeerUnavailable)
        print(f"stage {stage} stopped: noticed after {seconds:.2f} s of {SILENCE_S} s")


async def test_a_killed_runner_is_noticed_at_once(tmp_path: Path) -> None:
    """The head hears it by the streams that end on either side, the caller from the head."""
    async with impatient_ring(model_folder(tmp_path, fake_step_seconds=0.002), 3) as made:
        error, seconds = await failure(made, made.runners[1].process.kill)
        assert isinstance(error, PeerUnavailable)
        assert "of the ring" in error.message
        print(f"stage 1 killed: noticed after {seconds * 1000:.0f} ms")


TAKER = """
import asyncio, ctypes, sys
from unittest.mock import Mock
from exo_node.transport.server import bind, create_server
from exo_node.transport.step_stream import add_ring_service
from tests.papers import tls

class Taker(Mock):
    async def Steps(self, steps, context):
        await asyncio.sleep(float(sys.argv[1]))
        ctypes.PyDLL(None).usleep(int(float(sys.argv[2]) * 1e6))  # with Python's lock in its hand
        async for step in steps:
            print(sum(len(piece) for piece in step.pieces), flush=True)

async def main():
    server = create_server(max_receive=2**28)
    add_ring_service(server, Taker())
    print(bind(server, "127.0.0.1", 0, tls("taker").server_credentials()), flush=True)
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
"""


@asynccontextmanager
async def long_write(
    waits: float, steps: int, locked: float = 0.0
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.Future[str]]]:
    """Steps of 64 MiB under way to a process that takes none for so many seconds, and does nothing in Python for
    `locked` more; what `on_lost` is told."""
    command = (sys.executable, "-c", TAKER, str(waits), str(locked))
    taker = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert taker.stdout is not None
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    outbound = Outbound(
        epoch=Epoch(1, "a"),
        next_stage=1,
        address=f"127.0.0.1:{int(await taker.stdout.readline())}",
        token="",
        tls=tls("us"),
        name="taker",
        silence_s=SILENCE_S,
        on_lost=lambda epoch, stage, error: lost.set_result(error.message),
    )
    step = StepFrame(ring_pb2.StepMessage(), [bytes(2**26)]).to_bytes()
    try:
        for _ in range(steps):
            outbound.put(step)
        yield taker, lost
    finally:
        await outbound.close()
        taker.kill()
        await taker.wait()


async def test_whoever_is_stopped_with_full_buffers_is_noticed() -> None:
    """A ping waits behind the step that the stopped process does not take; it is noticed all the same."""
    async with long_write(0.0, 1000) as (taker, lost):
        assert taker.stdout is not None
        took = asyncio.ensure_future(taker.stdout.readline())
        await asyncio.wait((took, lost), return_when=asyncio.FIRST_COMPLETED)
        assert not lost.done(), lost.result()
        await took  # the next one is under way
        taker.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        async with asyncio.timeout(30):
            assert "is gone" in await lost  # in words of ours, or of gRPC where a ping was under way already
        print(f"noticed after {time.monotonic() - begun:.2f} s of {SILENCE_S} s")


@pytest.mark.parametrize(
    ("waits", "locked"), [(3 * SILENCE_S, 0.0), pytest.param(0.1, 3 * SILENCE_S, marks=pytest.mark.soak)]
)
async def test_who_is_slow_to_take_a_step_is_not_gone(waits: float, locked: float) -> None:
    """Its engine takes nothing for longer than the silence that is allowed, be it with Python's lock in its hand: its
    transport answers."""
    async with long_write(waits, 2, locked) as (taker, lost):
        assert taker.stdout is not None
        took = [int(await taker.stdout.readline()) for _ in range(2)]
        assert (took, lost.done()) == ([2**26] * 2, False)


@pytest.mark.soak
@pytest.mark.parametrize("breaks", [3, 20])
async def test_short_breaks_change_nothing(tmp_path: Path, breaks: int) -> None:
    """Pauses of 300 ms of the head or a follower, time and again: whole answers, of one epoch."""
    async with impatient_ring(model_folder(tmp_path, fake_step_seconds=0.004), 2, 2.0) as made:
        undisturbed = await generate(made.clients[0], request(PROMPT, 200))
        over = asyncio.Event()

        async def ask() -> list[tuple[list[int], str]]:
            answers = []
            while not over.is_set():
                answers.append(await generate(made.clients[0], request(PROMPT, 200)))
            return answers

        asking = asyncio.create_task(ask())
        for count in range(breaks):
            await asyncio.to_thread(pause, made.runners[count % 2].process.pid)
            await asyncio.sleep(BETWEEN_S)
        over.set()
        answers = await asking
        assert answers == [undisturbed] * len(answers)
        assert [one.epoch.counter for one in await made.stats()] == [1, 1]


TEXT = {"model": "demo", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 300, "ignore_eos": True}


def told_of(node: NodeProcess) -> tuple[str, int]:
    """The id of the one instance, and its epoch."""
    (one,) = node.request("GET", "/v1/instances")[1]["data"]
    return one["id"], one["epoch"]


@pytest.mark.soak
@pytest.mark.parametrize("breaks", [3, 20])
def test_short_breaks_of_nodes_place_nothing_anew(tmp_path: Path, breaks: int) -> None:
    """Daemons and runners that pause for 300 ms in the middle of answers: the same text, the same instance."""
    arguments = ["--discovery-module", "mdns", "-v"]
    with nodes(tmp_path / "home", arguments, arguments) as (here, there):
        status, placed = here.request("POST", "/v1/instances", {"model": "demo", "min_nodes": 2})
        assert status == 200, placed
        status, undisturbed = here.request("POST", "/v1/completions", TEXT)
        assert status == 200, undisturbed
        before = told_of(here)
        over = threading.Event()
        answers: list[tuple[int, Any]] = []

        def ask() -> None:
            while not over.is_set():
                answers.append(here.request("POST", "/v1/completions", TEXT))

        asking = threading.Thread(target=ask)
        asking.start()
        processes = [there.process.pid, *runner_pids(there), *runner_pids(here), here.process.pid]
        try:
            for count in range(breaks):
                pause(processes[count % len(processes)])
                time.sleep(BETWEEN_S)
        finally:
            over.set()
            asking.join()
        assert told_of(here) == before
        assert {status for status, _ in answers} == {200}, answers
        texts = {answer["choices"][0]["text"] for _, answer in answers}
        assert texts == {undisturbed["choices"][0]["text"]}
        assert "is gone" not in here.log() + there.log()


def runner_pids(node: NodeProcess) -> list[int]:
    """The node's runners."""
    children = psutil.Process(node.process.pid).children()
    return [one.pid for one in children if "exo_node.ring.runner" in one.cmdline()]
