"""Real runner processes under the supervisor: ready, ended, failed."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from exo_node.errors import CheckpointError, PeerUnavailable
from exo_node.ring.runner_config import papers_fields
from exo_node.ring.supervisor import SECRETS, RunnerSupervisor, ShardKey, describe_exit
from exo_node.transport.tls import runner_name
from tests.checkpoints import make_checkpoint
from tests.papers import papers


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "instance_id": "i",
        "token": "00" * 32,
        "papers": papers_fields(papers(runner_name("i"))),
        "model_id": folder.name,
        "model_path": str(folder),
        "shard": {"start_layer": 0, "end_layer": 1, "n_layers": 3},
        "stage": 0,
        "is_head": True,
        "engine": "mlx",
        "device": "CPU",
        "compute_dtype": "float32",
        "slots": 1,
        "context": 32,
        "kv_tokens": 64,
        "max_chunk": 16,
        "max_waiting": 64,
        "min_free_memory": 0,
        "reproducible": False,
        "prefix_cache": True,
        "speculation": True,
        "quantize": 0,
        "host": "127.0.0.1",
        "node_name": "test",
        "log_level": "WARNING",
        **changes,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_checkpoint("llama", tmp_path_factory.mktemp("models"), num_hidden_layers=3)
    if not (made / "tokenizer.json").exists():
        (made / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}, "merges": []}}')
    return made


class Ends:
    """Remembers runners that ended unasked."""

    def __init__(self) -> None:
        self.seen: list[tuple[ShardKey, int]] = []
        self.event = asyncio.Event()

    def __call__(self, key: ShardKey, code: int) -> None:
        self.seen.append((key, code))
        self.event.set()


def no_progress(stage: str, done: int, total: int) -> None:
    pass


async def test_a_runner_serves_until_unloaded(folder: Path) -> None:
    """A ready runner has a port and tells its memory; unloading ends its process without an alarm."""
    ends = Ends()
    supervisor = RunnerSupervisor(on_exit=ends)
    try:
        ready = await supervisor.load(("i", 0), config(folder), {}, no_progress)
        assert ready.port > 0
        assert ready.weight_bytes > 0
        assert supervisor.keys() == [("i", 0)]
        with pytest.raises(PeerUnavailable, match="already"):
            await supervisor.load(("i", 0), config(folder), {}, no_progress)
        assert await supervisor.unload(("i", 0))
        assert not await supervisor.unload(("i", 0))
        assert supervisor.keys() == []
        assert ends.seen == []
    finally:
        await supervisor.close()


async def test_a_runner_inherits_no_secret(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cluster key, API key and hub token of the daemon's environment do not reach a runner; nor does its command line
    say anything of the instance."""
    for name in SECRETS:
        monkeypatch.setenv(name, "secret")
    supervisor = RunnerSupervisor(on_exit=Ends())
    try:
        await supervisor.load(("i", 0), config(folder), {}, no_progress)
        process = psutil.Process(supervisor.pid(("i", 0)))
        assert "secret" not in process.environ().values()
        assert process.cmdline()[1:] == ["-m", "exo_node.ring.runner"]
    finally:
        await supervisor.close()


async def test_a_killed_runner_is_reported(folder: Path) -> None:
    """When a runner dies on its own, the owner hears of it with the way it ended."""
    ends = Ends()
    supervisor = RunnerSupervisor(on_exit=ends)
    try:
        await supervisor.load(("i", 0), config(folder), {}, no_progress)
        os.kill(supervisor.pid(("i", 0)), signal.SIGKILL)
        async with asyncio.timeout(5):
            await ends.event.wait()
        assert ends.seen == [(("i", 0), -signal.SIGKILL)]
        assert supervisor.keys() == []
    finally:
        await supervisor.close()


async def test_a_failing_load_raises_the_runner_s_own_error(folder: Path, tmp_path: Path) -> None:
    """Damaged files are the checkpoint's fault, said as such; nothing stays behind."""
    supervisor = RunnerSupervisor(on_exit=Ends())
    try:
        with pytest.raises(CheckpointError):
            await supervisor.load(("i", 0), config(tmp_path / "nothing"), {}, no_progress)
        assert supervisor.keys() == []
    finally:
        await supervisor.close()


async def test_a_runner_that_dies_while_loading_is_an_error_with_its_last_words(folder: Path) -> None:
    """A crash before "ready" gives its exit status and the end of its log."""
    supervisor = RunnerSupervisor(on_exit=Ends())
    with pytest.raises(PeerUnavailable, match="ended while loading"):
        await supervisor.load(("i", 0), config(folder), {"PYTHONHOME": "/nonexistent"}, no_progress)
    assert supervisor.keys() == []


async def test_a_runner_that_is_stopped_while_loading_is_ended(folder: Path) -> None:
    """It is given up after the silence that any peer has; nothing stays behind."""
    supervisor = RunnerSupervisor(on_exit=Ends(), silence_s=0.5)
    task, process = await started(supervisor, folder, {})
    process.suspend()
    with pytest.raises(PeerUnavailable, match=r"hangs: it has been stopped for 0\.5 s"):
        await task
    assert supervisor.all() == []
    assert not process.is_running()


async def test_a_runner_that_hangs_while_loading_is_ended(folder: Path, tmp_path: Path) -> None:
    """One that says, computes and reads nothing any more is waited for no longer; nothing stays behind."""
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(3600)")
    supervisor = RunnerSupervisor(on_exit=Ends(), silence_s=0.1)
    task, process = await started(supervisor, folder, {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})
    with pytest.raises(PeerUnavailable, match="said, computed and read nothing"):
        await task
    assert supervisor.all() == []
    assert not process.is_running()


async def started(
    supervisor: RunnerSupervisor, folder: Path, environment: dict[str, str]
) -> tuple[asyncio.Task[Any], psutil.Process]:
    """A load that has begun, and its runner's process."""
    task = asyncio.create_task(supervisor.load(("i", 0), config(folder), environment, no_progress))
    while not supervisor.all():  # noqa: ASYNC110 - a process that starts has no event of its own
        await asyncio.sleep(0)
    return task, psutil.Process(supervisor.pid(("i", 0)))


async def test_cancelling_a_load_kills_the_runner(folder: Path) -> None:
    """A load that nobody waits for any more leaves no process."""
    supervisor = RunnerSupervisor(on_exit=Ends())
    task = asyncio.create_task(supervisor.load(("i", 0), config(folder), {}, no_progress))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert supervisor.keys() == []
    await supervisor.load(("i", 0), config(folder), {}, no_progress)
    await supervisor.close()


def test_exits_are_described_in_words() -> None:
    """A signal is named, with the likely reason for SIGKILL."""
    assert describe_exit(-9) == "killed by SIGKILL (out of memory?)"
    assert describe_exit(-11) == "killed by SIGSEGV"
    assert describe_exit(1) == "exit status 1"
