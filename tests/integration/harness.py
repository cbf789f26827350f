"""Starts real `exo` daemons on loopback with ephemeral ports and a temporary EXO_HOME, and stops what it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai

ROOT = Path(__file__).resolve().parents[2]
SHARED_MODELS = ROOT.parent / "shared" / "models"
START_TIMEOUT_S = 30.0


class NodeProcess:
    """One daemon. `api` is its base URL, `node_id` its id."""

    def __init__(
        self, home: Path, *arguments: str, env: dict[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.log_path = home / f"log-{time.monotonic_ns()}.txt"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "exo_node", "serve", "--api-port", "0", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "EXO_HOME": str(home), **(env or {})},
            )
        self.api = ""
        self.node_id = ""

    def wait_ready(self) -> NodeProcess:
        """Until the daemon has written its run file (it does so once its API listens)."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"daemon ended with {self.process.returncode}:\n{self.log()}")
            for path in (self.home / "run").glob("*.json"):
                with contextlib.suppress(ValueError, FileNotFoundError):
                    data = json.loads(path.read_text())
                    if data["pid"] == self.process.pid:
                        self.api, self.node_id = data["api_url"], data["node_id"]
                        return self
            time.sleep(0.02)
        raise AssertionError(f"daemon not up within {START_TIMEOUT_S} s:\n{self.log()}")

    def log(self) -> str:
        """Everything that the daemon has printed."""
        return self.log_path.read_text(errors="replace")

    def client(self, **options: Any) -> openai.OpenAI:
        """The official SDK, pointed at this node."""
        return openai.OpenAI(base_url=f"{self.api}/v1", api_key="any", max_retries=0, timeout=120, **options)

    def request(self, method: str, path: str, body: Any = None, timeout: float = 120) -> tuple[int, Any]:
        """A plain HTTP call: (status, parsed JSON)."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.api + path, data=data, method=method, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def topology(self) -> Any:
        """`GET /v1/topology`."""
        return self.request("GET", "/v1/topology")[1]

    def wait_nodes(self, count: int, timeout: float = 15) -> None:
        """Until this node sees `count` nodes, itself included."""
        wait_until(lambda: len(self.topology()["nodes"]) == count, timeout, lambda: f"{self.topology()}\n{self.log()}")

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"daemon did not end within 20 s of SIGTERM:\n{self.log()}") from None
        return self.process.returncode


@contextlib.contextmanager
def nodes(home: Path, *argument_lists: Sequence[str], env: dict[str, str] | None = None) -> Iterator[list[NodeProcess]]:
    """One daemon per list of arguments, all of one EXO_HOME (one machine, several terminals), all seeing each other."""
    started: list[NodeProcess] = []
    try:
        for arguments in argument_lists:
            started.append(NodeProcess(home, *arguments, env=env))
        for node in started:
            node.wait_ready()
        for node in started:
            node.wait_nodes(len(started))
        yield started
    except BaseException:
        for node in started:
            print(f"--- {node.node_id}\n{node.log()[-6000:]}")
        raise
    finally:
        for node in started:
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
        for node in started:
            node.stop()


def wait_until(condition: Any, timeout: float, explain: Any = lambda: "") -> float:
    """Poll until the condition holds; returns the seconds it took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout:
            raise AssertionError(f"not within {timeout} s: {explain()}")
        time.sleep(0.02)
    return time.monotonic() - start


def expected_text() -> str:
    """The published greedy text of stories260K (EXPECTED.md): the block between the fences."""
    return (SHARED_MODELS / "stories260K" / "EXPECTED.md").read_text().split("```\n")[1].rstrip("\n")
