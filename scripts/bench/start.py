#!/usr/bin/env python3
"""How soon a node is there: one JSON line.

- `api_s`: from the start of the process to the first answer of its API; `rss_mb` of the daemon then, and after a chat.
- `run_cold_s`: `exo run demo --prompt ...` with no node running, to the first streamed word; `run_loaded_s`: with the
  model loaded. `ratio` is api_s over the start of a Python that only imports aiohttp and grpc, in the same run.

    scripts/bench/start.py [--runs 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.integration.harness import NodeProcess  # noqa: E402

PROMPT = "What is exo?"


def first_answer(port: int, begin: float) -> float:
    """Seconds from `begin` to the first answer of /health."""
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return time.perf_counter() - begin
        except OSError:
            time.sleep(0.002)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def first_word(environment: dict[str, str]) -> float:
    """Seconds from the start of `exo run` to its first output."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "exo_node", "run", "demo", "--prompt", PROMPT],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    seconds = time.perf_counter() - begin
    process.stdout.read()
    process.wait()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every start of a checkout compiles all of its source
    api, idle, busy, cold, loaded, bare = [], [], [], [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "home"
        environment = {**os.environ, "EXO_HOME": str(home)}
        first_word(environment)  # fills the caches that a second start finds
        for _ in range(runs):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import aiohttp.web, grpc.aio"], check=True)
            bare.append(time.perf_counter() - begin)
            cold.append(first_word(environment))
            port = free_port()
            begin = time.perf_counter()
            node = NodeProcess(home, "--api-port", str(port))
            try:
                api.append(first_answer(port, begin))
                node.wait_ready()
                time.sleep(1)
                daemon = psutil.Process(node.process.pid)
                idle.append(daemon.memory_info().rss / 1e6)
                first_word(environment)
                loaded.append(first_word(environment))
                busy.append(daemon.memory_info().rss / 1e6)
            finally:
                node.stop()
    median = statistics.median
    print(
        json.dumps(
            {
                "bench": "start",
                "api_s": round(median(api), 3),
                "rss_mb": round(median(idle), 1),
                "rss_after_chat_mb": round(median(busy), 1),
                "run_cold_s": round(median(cold), 3),
                "run_loaded_s": round(median(loaded), 3),
                "bare_python_s": round(median(bare), 3),
                "ratio": round(median(api) / median(bare), 2),
                "runs": runs,
            }
        )
    )


if __name__ == "__main__":
    main()
