"""Real runner processes on loopback, as a daemon would start them, with the engine that we ship for tests."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo_node.ring.keeping import kept_message, read_kept, surviving
from exo_node.ring.runner_config import papers_fields
from exo_node.transport.client import SILENCE_S
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.transport.ring_client import RingClient
from exo_node.transport.tls import node_name, runner_name
from tests.papers import papers, tls

TOKEN = bytes(range(16))
INSTANCE = "instance-1"
PAPERS = papers_fields(papers(runner_name(INSTANCE)))
LAYERS, HIDDEN, VOCAB = 6, 16, 97
SLOTS, CONTEXT, MAX_CHUNK = 4, 512, 8
START_TIMEOUT_S = 60.0  # a loaded machine
END_TIMEOUT_S = 20.0


def model_folder(path: Path, **extra: Any) -> Path:
    """A model for the fake engine: a config and nothing else."""
    sizes = {"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "vocab_size": VOCAB}
    (path / "config.json").write_text(json.dumps({**sizes, **extra}))
    return path


@dataclass
class Runner:
    """One process. `events` are the lines that it has written before it was ready."""

    process: asyncio.subprocess.Process
    events: list[dict[str, Any]]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.events[-1]['port']}"

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), END_TIMEOUT_S)


def config(model: Path, stage: int, n_stages: int, **changes: Any) -> dict[str, Any]:
    """What the daemon writes to a runner's standard input."""
    cut = [LAYERS * index // n_stages for index in range(n_stages + 1)]
    return {
        "instance_id": INSTANCE,
        "token": TOKEN.hex(),
        "papers": PAPERS,
        "model_id": "fake-model",
        "model_path": str(model),
        "shard": {"start_layer": cut[stage], "end_layer": cut[stage + 1], "n_layers": LAYERS},
        "stage": stage,
        "is_head": stage == 0,
        "engine": "fake",
        "device": "CPU",
        "compute_dtype": "float32",
        "slots": SLOTS,
        "context": CONTEXT,
        "kv_tokens": SLOTS * CONTEXT,
        "max_chunk": MAX_CHUNK,
        "max_waiting": 64,
        "min_free_memory": 0,
        "reproducible": False,
        "prefix_cache": False,  # so that a slot that is not given back shows
        "speculation": True,
        "quantize": 0,
        "host": "127.0.0.1",
        "node_name": "test",
        "log_level": "warning",
        "parent_pid": os.getpid(),
        **changes,
    }


async def start(fields: dict[str, Any]) -> Runner:
    """Start a runner and read its events up to `ready` or `error`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "exo_node.ring.runner", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(fields).encode() + b"\n")
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(START_TIMEOUT_S):
        async for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] in ("ready", "error"):
                break
    return Runner(process, events)


def dial(address: str, token: bytes = TOKEN, silence_s: float = SILENCE_S) -> RingClient:
    """A member's client of a runner."""
    return RingClient(address, token, tls(node_name("test")), INSTANCE, silence_s)


@dataclass
class Ring:
    """Configured runners and a client of each."""

    runners: list[Runner]
    clients: list[RingClient]

    async def configure(self, counter: int, order: Sequence[int] | None = None) -> None:
        """Tell every stage the epoch, followers first unless `order` says otherwise."""
        count = len(self.clients)
        for stage in order if order is not None else reversed(range(count)):
            await self.clients[stage].configure(self.configuration(stage, counter))

    async def fence(self, counter: int) -> list[ring_pb2.FenceResponse]:
        """Tell every stage that this epoch begins, the head first, which else might see its neighbours go; what they
        hold."""
        epoch = ring_pb2.Epoch(counter=counter, coordinator="test")
        told = ring_pb2.FenceRequest(instance_id=INSTANCE, epoch=epoch)
        return [await client.fence(told) for client in self.clients]

    async def recover(self, counter: int, lost: int | None = None, **changes: Any) -> list[ring_pb2.KeptSequence]:
        """Begin an epoch with what the stages but `lost` have kept; which is that. `changes`: to Configure."""
        answers = await self.fence(counter)
        held = [None if stage == lost else read_kept(answer.held) for stage, answer in enumerate(answers)]
        found, kept_from = surviving(held, None, 0)
        kept = [kept_message(one) for one in found]
        for stage in range(len(self.clients)):  # the head first: it sends before the others know
            wanted = self.configuration(stage, counter)
            wanted.kept.extend(kept)
            wanted.kept_from, wanted.next_sequence = kept_from, 1 + max(one.highest for one in answers)
            for name, value in changes.items():
                setattr(wanted, name, value)
            await self.clients[stage].configure(wanted)
        return kept

    async def replace(self, stage: int, fields: dict[str, Any]) -> None:
        """Kill a runner; a fresh one takes its place."""
        self.runners[stage].process.kill()
        await self.clients[stage].close()
        self.runners[stage] = await start(fields)
        self.clients[stage] = dial(self.runners[stage].address)

    def configuration(self, stage: int, counter: int) -> ring_pb2.ConfigureRequest:
        count = len(self.clients)
        return ring_pb2.ConfigureRequest(
            instance_id=INSTANCE,
            epoch=ring_pb2.Epoch(counter=counter, coordinator="test"),
            stage=stage,
            n_stages=count,
            next_address=self.clients[(stage + 1) % count].address,
            wire_dtype="bfloat16",
            slots=SLOTS,
            context=CONTEXT,
            max_chunk=MAX_CHUNK,
            rollback_depth=-1,
        )

    async def stats(self) -> list[ring_pb2.RunnerStats]:
        return [await client.stats() for client in self.clients]

    async def settled(self) -> list[ring_pb2.RunnerStats]:
        """The stats once no slot is in use anywhere; fails when that never comes."""
        async with asyncio.timeout(END_TIMEOUT_S):
            while True:
                found = await self.stats()
                if not any(one.slots_used for one in found):
                    return found
                await asyncio.sleep(0.01)


@asynccontextmanager
async def ring(model: Path, n_stages: int, *, configure: bool = True, **changes: Any) -> AsyncIterator[Ring]:
    """A ring of runner processes, with these `changes` to their configuration; all end with the block."""
    runners = await asyncio.gather(*(start(config(model, stage, n_stages, **changes)) for stage in range(n_stages)))
    made = Ring(list(runners), [dial(runner.address) for runner in runners])
    try:
        if configure:
            await made.configure(1)
        yield made
    finally:
        for client in made.clients:
            await client.close()
        for runner in made.runners:
            assert runner.process.stdin is not None
            runner.process.stdin.close()
        await asyncio.gather(*(runner.ended() for runner in made.runners))


def request(
    prompt: Sequence[int], max_tokens: int = 24, request_id: str = "", **fields: Any
) -> ring_pb2.GenerateRequest:
    """A greedy generation."""
    return ring_pb2.GenerateRequest(
        instance_id=INSTANCE,
        request_id=request_id or str(list(prompt)),
        prompt_ids=prompt,
        sampling=ring_pb2.Sampling(temperature=0, top_p=1, repetition_penalty=1),
        max_tokens=max_tokens,
        **fields,
    )


async def generate(client: RingClient, message: ring_pb2.GenerateRequest) -> tuple[list[int], str]:
    """All tokens and the finish reason; checks that every index is the next one."""
    ids: list[int] = []
    reason = ""
    async for delta in client.generate(message):
        assert delta.index == len(message.generated_ids) + len(ids)
        assert not reason
        ids.extend(delta.ids)
        reason = delta.finish_reason
    return ids, reason
