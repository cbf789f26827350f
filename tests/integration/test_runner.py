"""The runner's process: how it starts, what it says, and that it never outlives its daemon."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.runners import END_TIMEOUT_S, INSTANCE, LAYERS, config, model_folder, ring, start


async def test_a_runner_says_what_it_holds_and_where_it_listens(tmp_path: Path) -> None:
    """Progress, then `ready` with port and sizes; the end of the life pipe ends it at once with status 0."""
    runner = await start(config(model_folder(tmp_path), 0, 1))
    ready = runner.events[-1]
    assert [event["event"] for event in runner.events] == ["progress", "ready"]
    assert ready["port"] > 0
    assert ready["kv_bytes"] > 0
    assert (ready["rollback_depth"], ready["whole_tokens"], ready["info"]["engine"]) == (None, 0, "fake")
    assert runner.process.stdin is not None
    runner.process.stdin.close()
    assert await runner.ended() == 0


async def test_an_error_while_loading_is_one_line_that_says_what_is_wrong(tmp_path: Path) -> None:
    """The daemon gets code, status and message; the runner ends with status 1."""
    runner = await start(config(tmp_path, 0, 1))
    error = runner.events[-1]
    assert (error["event"], error["code"], error["status"]) == ("error", "invalid_checkpoint", 422)
    assert "config.json" in error["message"]
    assert await runner.ended() == 1


async def test_a_wrong_configuration_names_the_field(tmp_path: Path) -> None:
    """A daemon's bug shows as one line, too."""
    runner = await start(config(model_folder(tmp_path), 0, 1, slots=0))
    assert "slots" in runner.events[-1]["message"]
    assert await runner.ended() == 1


async def test_an_end_of_the_pipe_before_any_configuration_ends_it() -> None:
    """A daemon that dies at once leaves nothing behind."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "exo_node.ring.runner", stdin=asyncio.subprocess.DEVNULL
    )
    assert await asyncio.wait_for(process.wait(), END_TIMEOUT_S) == 0


# The parent starts a runner, says its pid, and hangs; the runner's standard input is inherited from the test on
# request, so that only the parent's death can end it.
PARENT = """
import json, os, subprocess, sys, time
config = json.loads(sys.argv[1])
config["parent_pid"] = os.getpid()
read, write = os.pipe()
if sys.argv[2] == "leak":
    os.set_inheritable(write, True)
    keeper = subprocess.Popen(["sleep", "60"], close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
else:
    keeper = None
child = subprocess.Popen([sys.executable, "-m", "exo_node.ring.runner"], stdin=read, stdout=subprocess.PIPE)
os.write(write, json.dumps(config).encode() + b"\\n")
while json.loads(child.stdout.readline())["event"] != "ready":
    pass
print(child.pid, keeper.pid if keeper else 0, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("pipe", ["held", "leak"])
async def test_a_runner_ends_when_its_daemon_is_killed(tmp_path: Path, pipe: str) -> None:
    """`kill -9` of the daemon ends the runner by the pipe; on Linux even when somebody else holds its write end."""
    if pipe == "leak" and sys.platform != "linux":
        pytest.skip("PDEATHSIG exists on Linux only")
    fields = json.dumps(config(model_folder(tmp_path), 0, 1))
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, fields, pipe, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child, keeper = map(int, (await parent.stdout.readline()).split())
    assert alive(child)
    parent.kill()
    await parent.wait()
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            while alive(child):  # noqa: ASYNC110 - another process cannot set an event
                await asyncio.sleep(0.01)
    finally:
        if keeper:
            os.kill(keeper, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process runs; an orphan that nobody has waited for yet does not."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except FileNotFoundError:
            return False
    return subprocess.run(["kill", "-0", str(pid)], check=False, capture_output=True).returncode == 0


async def test_output_of_libraries_goes_to_the_log(tmp_path: Path) -> None:
    """Only our own lines reach standard output: whatever else prints lands on standard error."""
    model_folder(tmp_path)
    code = (
        "import runpy, threading, exo_node.engine.fake as fake\n"
        "load = fake.FakeEngine.load\n"
        "def noisy(self, *rest):\n"
        "    print('noise'); import os; os.write(1, b'more noise\\n'); return load(self, *rest)\n"
        "fake.FakeEngine.load = noisy\n"
        "runpy.run_module('exo_node.ring.runner', run_name='__main__')\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(config(tmp_path, 0, 1)).encode() + b"\n")
    async for line in process.stdout:
        if json.loads(line)["event"] == "ready":
            break
    process.stdin.close()
    out, err = await asyncio.wait_for(process.communicate(), END_TIMEOUT_S)
    assert (out, b"noise" in err, b"more noise" in err) == (b"", True, True)


async def test_a_ring_of_three_processes_starts(tmp_path: Path) -> None:
    """Each process holds its share of the layers and serves its own port."""
    async with ring(model_folder(tmp_path), 3) as made:
        stats = await made.stats()
        assert [one.stage for one in stats] == [0, 1, 2]
        assert len({client.address for client in made.clients}) == 3
        assert LAYERS % 3 == 0
        assert len({one.kv_bytes for one in stats}) == 1
        assert INSTANCE
