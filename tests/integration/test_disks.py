"""Nodes whose home is on a disk that is full or read-only, or whose database is damaged."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import ROOT, NodeProcess, wait_until

UNSHARE = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
CHAT = {"model": "demo", "max_tokens": 3, "messages": [{"role": "user", "content": "What is exo?"}]}
RESPONSE = {"model": "demo", "max_output_tokens": 16, "input": "What is exo?"}
READY = re.compile(r"API and status on (http://\S+)")


def mounts() -> bool:
    """Whether this machine lets us mount something where only our children see it."""
    with contextlib.suppress(FileNotFoundError):
        made = [*UNSHARE, "mount -t tmpfs -o size=64k tmpfs /tmp"]
        return subprocess.run(made, capture_output=True, check=False).returncode == 0
    return False


pytestmark = pytest.mark.skipif(not mounts(), reason="this machine lets us mount nothing (unshare --mount)")


@contextlib.contextmanager
def node(home: Path, mount: str) -> Iterator[NodeProcess]:
    """A node that runs after `mount` ($0 is its home), in a view of the disks of its own, which `seen` shows."""
    one = NodeProcess(
        home, "--discovery-module", "none", "--offline", prefix=[*UNSHARE, f'{mount} && exec "$@"', str(home)]
    )
    try:
        wait_until(lambda: READY.search(one.log()) or one.process.poll() is not None, 30, one.log)
        found = READY.search(one.log())
        assert found is not None, one.log()
        one.api = found[1]
        yield one
        assert one.stop() == 0
    finally:
        one.process.kill()


def seen(one: NodeProcess) -> Path:
    """The home as the node sees it."""
    return Path(f"/proc/{one.process.pid}/root{one.home}")


def ask(one: NodeProcess, path: str, body: Any = None, key: str = "") -> tuple[int, Any]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(one.api + path, data, headers), timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def exo(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    command = [sys.executable, "-m", "exo_node", *arguments]
    environment = {**os.environ, "EXO_HOME": str(home)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)


def new_key(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "exo_node", "apikey", "add", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "EXO_HOME": str(home)}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def warnings(one: NodeProcess) -> list[str]:
    return [line for line in one.log().splitlines() if " W " in line or " E " in line or "Traceback" in line]


def in_mount(one: NodeProcess, *command: str) -> None:
    subprocess.run(["nsenter", "-t", str(one.process.pid), "-m", *command], check=True)


def test_a_read_only_disk(tmp_path: Path) -> None:
    """It starts, knows its keys, answers, and says once what it cannot do; with a disk that lets it, it writes."""
    home = tmp_path / "home"
    home.mkdir()
    key = new_key(home, "--scope", "admin")
    with node(home, 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"') as one:
        assert ask(one, "/v1/chat/completions", CHAT)[0] == 401
        for _ in range(5):
            assert ask(one, "/v1/chat/completions", CHAT, key)[0] == 200
        status, response = ask(one, "/v1/responses", RESPONSE, key)
        assert (status, response["store"]) == (200, False)
        for body in ({**RESPONSE, "store": True}, {**RESPONSE, "background": True}):
            status, refused = ask(one, "/v1/responses", body, key)
            assert (status, refused["error"]["code"]) == (507, "storage_read_only")
        said = warnings(one)
        assert len(said) == 3, said  # the cluster's key, the run file, the database: each once
        assert "read-only" in said[-1].lower()
        in_mount(one, "mount", "-o", "remount,bind,rw", str(home))
        wait_until(lambda: ask(one, "/v1/responses", {**RESPONSE, "store": True}, key)[0] == 200, 30, one.log)
        assert ask(one, "/v1/spend", key=key)[1]["total"]["requests"] >= 1
        assert len(warnings(one)) == 4, warnings(one)


def test_a_full_disk(tmp_path: Path) -> None:
    """A disk that fills up under a node stops nothing but what wants room, which is a 507; with room it goes on."""
    home = tmp_path / "home"
    with node(home, 'mount -t tmpfs -o size=900k tmpfs "$0"') as one:
        assert ask(one, "/v1/chat/completions", CHAT)[0] == 200
        assert ask(one, "/v1/spend")[1]["total"]["requests"] == 1
        with (seen(one) / "fill").open("wb", buffering=0) as fill, contextlib.suppress(OSError):
            while True:
                fill.write(bytes(1024))
        status, refused = 0, dict[str, Any]()
        deadline = time.monotonic() + 60
        while status != 507 and time.monotonic() < deadline:  # until what had room beside is used up too
            status, refused = ask(one, "/v1/responses", {**RESPONSE, "store": True, "metadata": {"a": "x" * 500}})
            assert status in (200, 507), refused
        assert refused["error"]["code"] == "storage_full"
        assert ask(one, "/v1/chat/completions", CHAT)[0] == 200
        assert ask(one, "/v1/spend")[0] == 200
        (seen(one) / "fill").unlink()
        wait_until(lambda: ask(one, "/v1/responses", {**RESPONSE, "store": True})[0] == 200, 30, one.log)
        assert len(warnings(one)) <= 2, warnings(one)


def test_a_damaged_database_opens_no_node(tmp_path: Path) -> None:
    """The API keys are in it: the node does not start without them, says why and what to do, and leaves the file."""
    home = tmp_path / "home"
    home.mkdir()
    new_key(home)
    path = home / "node-shared.db"
    made = b"junk" * 2000
    path.write_bytes(made)
    done = exo(home, "serve", "--api-port", "0", "--discovery-module", "none")
    assert done.returncode != 0
    assert "ready" not in done.stdout
    assert f"{path}: damaged" in done.stderr
    assert "exo apikey add" in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == made
