"""A process that is killed while it writes: what it was told is written stays, and the file is sound."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Writes keys, spend, sums, answers and files without end; says a number when all before it is on the disk.
CHILD = """
import asyncio, sys, time
from pathlib import Path
from exo_node.store import SpendRow, Store
from exo_node.store_batches import BatchTable, FileRow
from exo_node.store_responses import ResponseRow, ResponseTable

def spend(number):
    return SpendRow(id=str(number), at=time.time(), kind="chat", model="m", served_model="m", backend="b", provider="p",
        node="n", key_id="", user="", stream=False, status=200, error_code="", prompt_tokens=1, completion_tokens=1,
        cached_tokens=0, cost=0.1, estimated=False, cached=False, continued=False, ttft_s=None, total_s=1.0)

async def main(path, start):
    store = Store(path)
    responses, files = ResponseTable(store), BatchTable(store)
    number = start
    while True:
        for _ in range(number % 7 + 1):
            number += 1
            store.log_spend(spend(number))
            store.save_spent("all", "", "2026-11", "n", float(number))
            responses.put(ResponseRow(id=f"r{number}", owner="", node="n", created=time.time(), previous=None,
                input=[{"text": "x" * (number % 3000)}], response={"n": number}))
        if number % 3 == 0:
            await files.add_file(FileRow(id=f"f{number}", owner="", purpose="p", filename="f", bytes=1, created=1.0))
        await store.flush()
        print(number, flush=True)

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def killed_while_writing(path: Path, start: int, after_s: float, acknowledgements: int) -> tuple[int, int]:
    """Runs the child until it has said so many numbers and `after_s` more; returns the last number before the kill."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(start)], stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ}
    )
    assert child.stdout is not None
    said = start
    try:
        for _ in range(acknowledgements):
            said = int(child.stdout.readline())
        time.sleep(after_s)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    rest = child.stdout.read().split(b"\n")[:-1]  # a line that was cut off says nothing
    child.stdout.close()
    return int(rest[-1]) if rest else said, child.returncode


def kills(path: Path, count: int, seed: int) -> int:
    """So many kills one after the other, each at another moment; returns how many rows were acknowledged."""
    chosen = random.Random(seed)
    acknowledged: set[int] = set()
    start = 0
    for _ in range(count):
        said, code = killed_while_writing(path, start, chosen.random() * 0.02, chosen.randrange(4))
        assert code == -signal.SIGKILL
        acknowledged |= set(range(start + 1, said + 1))
        if not path.exists():
            assert not acknowledged
            continue
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            spend = {int(one) for (one,) in db.execute("SELECT id FROM spend")}
            answers = {int(one[1:]) for (one,) in db.execute("SELECT id FROM responses")}
            sums = [usd for (usd,) in db.execute("SELECT usd FROM spent")]
        assert acknowledged <= spend
        assert acknowledged <= answers
        assert not acknowledged or max(sums) >= max(acknowledged)
        for rows in (spend, answers):  # of those that nobody was told of, the later ones are gone, not some
            late = {one for one in rows if one > said}
            assert late == set(range(said + 1, said + 1 + len(late)))
        start = max(spend | answers, default=0)
    return len(acknowledged)


def test_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """After each `kill -9` the file is sound and holds every acknowledged row, without holes among the others."""
    assert kills(tmp_path / "s.db", 6, 20261121) > 5


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_hundreds_of_kills(tmp_path: Path) -> None:
    """The same 300 times: in new files, with the making of the tables under the kill, and in files that grow."""
    for seed in range(30):
        kills(tmp_path / f"{seed}.db", 10, seed)
