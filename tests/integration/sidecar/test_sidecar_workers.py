"""The workers as processes: their connections, what they are told, and how they end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from exo_node.routing.call import Attempt, Call, UpstreamError
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.service import LiteLLMService
from exo_node.routing.upstream.sidecar_upstream import SidecarUpstream
from tests.integration.sidecar_stage import KEY, MARKS, MESSAGES, Stage, deployment, text_of
from tests.standins import Script

pytestmark = MARKS


async def test_the_one_http_client(stage: Stage) -> None:
    """The daemon's pass-through client talks to a worker as to any upstream, and understands its errors."""
    call = Call(
        id="1", kind="chat", model="claude", body={"model": "claude", "messages": MESSAGES}, stream=True,
        deadline=time.monotonic() + 30, prompt_tokens=3,
    )  # fmt: skip
    attempt = Attempt(call=call, timeout_s=30)
    connections = Connections()
    asked = {d.id: d for d in stage.service.deployments}
    try:
        upstream = SidecarUpstream(stage.service, connections, asked["claude"])
        events = [event async for batch in upstream.stream(attempt) for event in batch.events]
        assert text_of(events).startswith("You said: Hello there")
        stage.standins["anthropic"].queue.extend([Script(status=429, retry_after="7"), Script(eof_after=3)])
        with pytest.raises(UpstreamError) as limited:
            [batch async for batch in upstream.stream(attempt)]
        with pytest.raises(UpstreamError) as cut:
            [batch async for batch in upstream.stream(attempt)]
    finally:
        await connections.close()
    assert (limited.value.cause, limited.value.retry_after) == ("rate_limited", 7)
    assert cut.value.cause == "eof"


async def test_key_check(stage: Stage) -> None:
    """A key is checked with one token, on demand: the provider's word counts."""
    assert (await stage.service.check_key("claude")).ok
    assert stage.standins["anthropic"].requests[-1].body["max_tokens"] == 1
    wrong = await stage.service.check_key("wrong-key")
    assert (wrong.ok, wrong.status, wrong.cause) == (False, 401, "auth")


async def test_update(stage: Stage) -> None:
    """When `update` returns, a new deployment is served and a removed one is unknown."""
    before = stage.service.deployments
    new = deployment("new", "openai/gpt-4o", api_key=KEY, api_base=stage.standins["openai"].url + "/v1")
    try:
        await stage.service.update([new])
        assert (await stage.chat("new"))[0] == 200
        assert (await stage.chat("claude"))[2]["error"]["code"] == "unknown_deployment"
    finally:
        await stage.service.update(before)
    assert (await stage.chat("claude"))[0] == 200


async def test_a_gone_client_cancels_the_provider(stage: Stage) -> None:
    """Whoever lets go of a stream lets go of the provider's too."""
    stage.standins["anthropic"].queue.append(Script(stall_after=2))
    async with stage.service.worker() as endpoint:
        connector = aiohttp.UnixConnector(endpoint.socket)
        async with aiohttp.ClientSession(connector=connector) as session:
            body = {"messages": MESSAGES, "stream": True}
            headers = {"x-exo-deployment": "claude"}
            async with session.post(f"{endpoint.base_url}/chat/completions", json=body, headers=headers) as response:
                await response.content.readline()
    ended = stage.standins["anthropic"].requests[-1].ended
    assert await asyncio.to_thread(ended.wait, 10)
    assert stage.standins["anthropic"].requests[-1].outcome == "disconnected"


async def test_secrets_stay_inside(stage: Stage) -> None:
    """Keys stand in no argument, environment block, file or socket that others may read."""
    rows = [row for row in stage.service.status() if row["pid"]]
    assert rows
    for row in rows:
        process = Path("/proc") / str(row["pid"])
        if process.exists():
            assert KEY.encode() not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    async with stage.service.worker() as endpoint:
        socket = endpoint.socket
    assert stat.S_IMODE(os.stat(socket).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(socket)).st_mode) == 0o700
    assert [f for f in stage.home.rglob("*") if f.is_file() and KEY.encode() in f.read_bytes()] == []


@asynccontextmanager
async def streaming(stage: Stage) -> AsyncIterator[tuple[str, aiohttp.ClientResponse]]:
    """A streamed call at the first worker, and that worker's socket."""
    async with stage.service.worker() as endpoint:
        assert endpoint.worker == 0
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(endpoint.socket)) as session:
            body = {"messages": MESSAGES, "stream": True}
            headers = {"x-exo-deployment": "claude"}
            async with session.post(f"{endpoint.base_url}/chat/completions", json=body, headers=headers) as response:
                yield endpoint.socket, response


async def test_a_killed_worker_is_replaced(stage: Stage) -> None:
    """kill -9 of a worker: its call breaks, new calls are served by the other at once, and it comes back."""
    await both_serve(stage.service)
    victim = stage.service.status()[0]
    stage.standins["anthropic"].queue.append(Script(stall_after=2))
    async with streaming(stage) as (_, response):
        await response.content.readline()
        os.kill(victim["pid"], signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            while await response.content.readany():
                pass
    await until(lambda: stage.service.status()[0]["state"] != "serving")
    assert (await stage.chat("claude"))[0] == 200
    await both_serve(stage.service)
    again = stage.service.status()[0]
    assert again["pid"] != victim["pid"] and again["starts"] == 2


async def test_a_silent_worker_gets_no_new_calls(stage: Stage) -> None:
    """A worker that misses its pings is passed over until it answers again; nothing is killed for a pause."""
    await both_serve(stage.service)
    victim = stage.service.status()[0]
    os.kill(victim["pid"], signal.SIGSTOP)
    try:
        await until(lambda: stage.service.status()[0]["state"] == "silent")
        async with stage.service.worker() as endpoint:
            assert endpoint.worker == 1
        assert (await stage.chat("claude"))[0] == 200
    finally:
        os.kill(victim["pid"], signal.SIGCONT)
    await both_serve(stage.service)
    assert stage.service.status()[0]["pid"] == victim["pid"]


async def test_a_socket_that_is_taken_away(stage: Stage) -> None:
    """Calls on their way end well, new ones go elsewhere at once, and the worker is replaced, its folder too."""
    await both_serve(stage.service)
    before = stage.service.status()
    stage.standins["anthropic"].queue.append(Script(gap_s=0.1))
    async with streaming(stage) as (socket, response):
        os.unlink(socket)
        for _ in range(3):
            assert (await stage.chat("claude"))[0] == 200
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
    await until(lambda: stage.service.status()[0]["starts"] > before[0]["starts"])
    await both_serve(stage.service)
    shutil.rmtree(os.path.dirname(socket))
    assert (await stage.chat("claude"))[0] == 200
    await both_serve(stage.service)
    after = stage.service.status()
    assert [row["starts"] for row in after] == [before[0]["starts"] + 2, before[1]["starts"] + 1]
    assert stat.S_IMODE(os.stat(os.path.dirname(socket)).st_mode) == 0o700


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  # states of other processes: nobody here could set an event
            await asyncio.sleep(0.02)


async def both_serve(service: LiteLLMService) -> None:
    await until(lambda: [row["state"] for row in service.status()] == ["serving", "serving"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_workers_die_with_their_daemon(tmp_path: Path) -> None:
    """A daemon that is killed leaves no worker and no socket behind."""
    code = """
        import asyncio, os, sys
        from pathlib import Path
        from exo_node.routing.upstream.service import LiteLLMService
        async def main():
            service = LiteLLMService(home=Path(sys.argv[1]), environment=dict(os.environ), workers=1)
            await service.start()
            await service.ready()
            print(service.status()[0]["pid"], flush=True)
            await asyncio.Event().wait()
        asyncio.run(main())
    """
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(code), str(tmp_path), stdout=subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        pid = int(await parent.stdout.readline())
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: not os.path.exists(f"/proc/{pid}"))
