"""The gate without a network; with one: tests/integration/test_trust.py and test_key_rotation.py."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from exo_node.transport.gate import Gate
from exo_node.transport.tls import TlsIdentity
from tests.papers import OTHER, papers


class Aborted(Exception):
    pass


class Context:
    """A call of who shows this certificate."""

    def __init__(self, certificate: str) -> None:
        self._certificate = certificate

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._certificate.encode()]}

    async def abort(self, *_: Any) -> None:
        raise Aborted


async def run(gate: Gate, context: Context, lasts: bool, ended: asyncio.Event) -> str:
    async def handler(request: Any, context: Any) -> str:
        await ended.wait()
        return "done"

    return cast(str, await gate._coroutine(handler, lasts)(None, cast(Any, context)))


async def test_sweep() -> None:
    """It ends what the dropped key began, but for the methods that last; what a trusted key began runs on."""
    tls, ended = TlsIdentity(papers("a.exo")), asyncio.Event()
    gate = Gate(tls)
    mine, old = Context(papers("b.exo", key=OTHER).certificate), Context(papers("b.exo").certificate)
    tasks = [asyncio.create_task(run(gate, old, lasts, ended)) for lasts in (False, True)]
    await asyncio.sleep(0)
    tls.replace(papers("a.exo", key=OTHER))
    tasks.append(asyncio.create_task(run(gate, mine, False, ended)))
    await asyncio.sleep(0)
    assert gate.sweep() == 1
    assert gate.sweep() == 0
    with pytest.raises(Aborted):
        await tasks[0]
    ended.set()
    assert await asyncio.gather(*tasks[1:]) == ["done", "done"]
    with pytest.raises(Aborted):  # a new call on the old connection, of a method that lasts or not
        await run(gate, old, True, ended)


async def test_who_cancels_a_call_is_heard() -> None:
    """A call that its own server cancels ends as cancelled."""
    gate = Gate(TlsIdentity(papers("a.exo")))
    task = asyncio.create_task(run(gate, Context(papers("b.exo").certificate), False, asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
