"""Batches brought to their end, with answers given by the test."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exo_node.api.batches import batch_row
from exo_node.api.batching.area import FileArea
from exo_node.api.batching.worker import LIMIT, Ask, BatchWorker, pause_after
from exo_node.errors import (
    BudgetExceeded,
    ExoError,
    InvalidRequest,
    ModelNotFound,
    PeerUnavailable,
    RateLimited,
    RingBroken,
)
from exo_node.limits.admission import rate_limited
from exo_node.limits.rates import Limit, Refusal
from exo_node.routing.call import UpstreamError
from exo_node.store import Store, store_path
from exo_node.store_batches import BatchRow, BatchTable, FileRow

URL = "/v1/chat/completions"


class Stage:
    """A worker over a real folder and database."""

    def __init__(self, home: Path, ask: Ask) -> None:
        self.store = Store(store_path(home))
        self.table = BatchTable(self.store)
        self.area = FileArea(home / "files")
        self.worker = BatchWorker(self.table, self.area, ask)

    async def add(self, content: bytes, now: float | None = None) -> BatchRow:
        with self.area.receive("file-in") as arriving:
            arriving.write(content)
            arriving.keep()
        body = {"input_file_id": "file-in", "endpoint": URL, "completion_window": "24h"}
        row = batch_row(body, "key-1", time.time() if now is None else now)
        await self.table.add_batch(row)
        return row

    async def until(self, ident: str, wanted: Callable[[BatchRow], bool]) -> BatchRow:
        while True:
            row = await self.table.batch(ident)
            assert row is not None
            if wanted(row):
                return row
            await asyncio.sleep(0.005)

    def read(self, ident: str) -> dict[str, Any]:
        rows = [json.loads(line) for line in self.area.lines(ident)]
        assert len({row["custom_id"] for row in rows}) == len(rows)
        return {row["custom_id"]: row for row in rows}


@asynccontextmanager
async def running(home: Path, ask: Ask) -> AsyncIterator[Stage]:
    stage = Stage(home, ask)
    task = asyncio.create_task(stage.worker.run())
    try:
        yield stage
    finally:
        task.cancel()
        await asyncio.wait((task,))
        stage.store.close()


def content(count: int) -> bytes:
    rows = [{"custom_id": f"r{i}", "method": "POST", "url": URL, "body": {"n": i}} for i in range(count)]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def echo(owner: str, endpoint: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    if body["n"] == 1:
        raise InvalidRequest("no", param="n")
    if body["n"] == 2:
        raise ZeroDivisionError
    return {"owner": owner, "endpoint": endpoint, "n": body["n"]}


async def test_to_the_end(tmp_path: Path) -> None:
    """Answers go to one file, failures (ours too) to the other; both become the owner's files."""
    async with running(tmp_path, echo) as stage:
        row = await stage.add(content(4))
        stage.worker.notice(row.id)
        done = await stage.until(row.id, lambda row: row.status == "completed")
        assert done.batch["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
        assert {"in_progress_at", "finalizing_at", "completed_at", "output_file_id"} <= done.batch.keys()
        answers, failures = stage.read(row.output_id), stage.read(row.error_id)
        assert answers["r3"]["response"]["body"] == {"owner": "key-1", "endpoint": URL, "n": 3}
        assert failures["r1"]["response"]["body"]["error"]["param"] == "n"
        assert failures["r2"]["response"]["status_code"] == 500
        kept = await stage.table.file(row.output_id, "key-1", time.time())
        assert kept is not None
        assert kept.bytes == stage.area.size(row.output_id)


async def test_what_has_its_line_is_not_asked_again(tmp_path: Path) -> None:
    """A worker that goes on after another asks for what neither file has; half a line counts as none."""
    asked: list[int] = []

    async def ask(owner: str, endpoint: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.append(body["n"])
        return {}

    async with running(tmp_path, ask) as stage:
        row = await stage.add(content(5))
        await stage.table.move(row.id, ("validating",), "in_progress", {"request_counts": {"total": 5}})
        stage.area.append(row.output_id, b'{"custom_id": "r0"}\n{"custom_id": "r3"}\n{"custom_id": "r4", "resp')
        stage.area.append(row.error_id, b'{"custom_id": "r2"}\n')
        stage.worker.notice(row.id)
        done = await stage.until(row.id, lambda row: row.status == "completed")
        assert sorted(asked) == [1, 4]
        assert done.batch["request_counts"] == {"total": 5, "completed": 4, "failed": 1}
        assert set(stage.read(row.output_id)) == {"r0", "r1", "r3", "r4"}


async def test_cancel_ends_what_is_under_way(tmp_path: Path) -> None:
    """The requests are cancelled, what was answered is kept."""
    ended: list[int] = []

    async def ask(owner: str, endpoint: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if body["n"] == 0:
            return {}
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(body["n"])
        return {}

    async with running(tmp_path, ask) as stage:
        row = await stage.add(content(LIMIT + 2))
        stage.worker.notice(row.id)
        await stage.until(row.id, lambda row: row.batch["request_counts"]["completed"] == 1)
        await stage.table.move(row.id, ("in_progress",), "cancelling", {})
        stage.worker.notice(row.id)
        done = await stage.until(row.id, lambda row: row.status == "cancelled")
        assert sorted(ended) == [*range(1, LIMIT + 1)]
        assert set(stage.read(row.output_id)) == {"r0"}
        assert "error_file_id" not in done.batch


async def test_the_window_ends(tmp_path: Path) -> None:
    """What has no answer then is in the error file as expired."""
    async with running(tmp_path, echo) as stage:
        row = await stage.add(content(3), now=time.time() - 2 * 86400)
        stage.worker.notice(row.id)
        done = await stage.until(row.id, lambda row: row.status == "expired")
        assert done.batch["request_counts"] == {"total": 3, "completed": 0, "failed": 3}
        assert {one["error"]["code"] for one in stage.read(row.error_id).values()} == {"batch_expired"}
        assert done.batch["error_file_id"] == row.error_id


async def test_a_wrong_file_and_a_broken_disk_fail_the_batch(tmp_path: Path) -> None:
    """A batch that cannot be worked on fails with the reason, and no other one with it."""
    async with running(tmp_path, echo) as stage:
        wrong = await stage.add(b"{}\n")
        stage.worker.notice(wrong.id)
        failed = await stage.until(wrong.id, lambda row: row.status == "failed")
        assert failed.batch["errors"]["data"][0]["code"] == "missing_required_parameter"
        full = await stage.add(content(1))
        stage.area.path(full.output_id).mkdir(parents=True)
        stage.worker.notice(full.id)
        failed = await stage.until(full.id, lambda row: row.status == "failed")
        assert failed.batch["errors"]["data"][0]["code"] == "storage_failed"
        good = await stage.add(content(1))
        stage.worker.notice(good.id)
        await stage.until(good.id, lambda row: row.status == "completed")


async def test_files_of_batches_outlive_their_time(tmp_path: Path) -> None:
    """An input file that expires stays until its batch has ended, then goes; one that is gone fails the batch."""
    hold = asyncio.Event()

    async def ask(owner: str, endpoint: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        await hold.wait()
        return {}

    async with running(tmp_path, ask) as stage:
        row = await stage.add(content(3))
        await stage.table.add_file(
            FileRow(id="file-in", owner="", purpose="batch", filename="", bytes=1, created=1.0, expires=2.0)
        )
        stage.worker.notice(row.id)
        await stage.until(row.id, lambda row: row.status == "in_progress")
        assert await stage.table.expired_files(3.0) == ["file-in"]
        hold.set()
        await stage.until(row.id, lambda row: row.status == "completed")
        assert set(stage.read(row.output_id)) == {"r0", "r1", "r2"}
        lost = await stage.add(content(1))
        await stage.table.move(lost.id, ("validating",), "in_progress", {"request_counts": {"total": 1}})
        stage.area.remove("file-in")
        stage.worker.notice(lost.id)
        failed = await stage.until(lost.id, lambda row: row.status == "failed")
        assert failed.batch["errors"]["data"][0]["code"] == "input_file_gone"
        other = await stage.add(content(1))
        stage.worker.notice(other.id)
        await stage.until(other.id, lambda row: row.status == "completed")
        while await stage.table.expired_files(3.0):
            stage.worker.notice("")
            await asyncio.sleep(0.005)
        assert stage.area.size("file-in") == 0


async def test_limits_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that a limit refused is asked again when there is room."""
    monkeypatch.setattr("exo_node.api.batching.worker.LONGEST_PAUSE_S", 0.01)
    tries = 0

    async def ask(owner: str, endpoint: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        nonlocal tries
        tries += 1
        if tries < 8:
            raise RateLimited("full", retry_after=30)
        return {}

    async with running(tmp_path, ask) as stage:
        row = await stage.add(content(1))
        stage.worker.notice(row.id)
        done = await stage.until(row.id, lambda row: row.status == "completed")
        assert (tries, done.batch["request_counts"]["completed"]) == (8, 1)


@pytest.mark.parametrize(
    ("error", "tries", "wanted"),
    [
        (RateLimited("x", retry_after=7), 99, 7),
        (RateLimited("x", retry_after=600), 1, 60),
        (RateLimited("x"), 1, 1),
        (rate_limited(Refusal(Limit("key:k", None, 5, "API key 'k'"), "tokens", None), 9), 1, None),
        (BudgetExceeded("x", retry_after=7), 1, None),
        (UpstreamError("x", "rate_limited", retry_after=5), 1, 5),
        (UpstreamError("x", "rate_limited"), 3, 4),
        (UpstreamError("x", "rate_limited"), 4, None),
        (UpstreamError("x", "server"), 1, None),
        (RingBroken("x"), 2, 2),
        (PeerUnavailable("x"), 4, None),
        (ModelNotFound("x"), 1, None),
        (InvalidRequest("x"), 1, None),
    ],
)
def test_pause_after(error: ExoError, tries: int, wanted: float | None) -> None:
    """Limits are waited for, but not by a request that is larger than its limit; what passes by itself is tried a few
    times; everything else is the answer."""
    assert pause_after(error, tries) == wanted
