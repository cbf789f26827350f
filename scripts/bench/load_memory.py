#!/usr/bin/env python3
"""Anonymous memory of a runner while it loads a shard of a made checkpoint of at least 2 GB. One JSON line an engine.

The bound: peak anonymous memory <= 1.15 x the shard's bytes as held + 300 MB. `ratio` is the peak over that bound.
Two layouts: the whole model, and the second half on a second node (whose files hold twice what it may read).

    scripts/bench/load_memory.py [--engine mlx|tinygrad|both] [--dtype float32|bfloat16] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

import make_checkpoint  # noqa: E402

from tests.integration.harness import NodeProcess, nodes  # noqa: E402

MIB = 1e6
SLACK = 300e6


class AnonymousPeak:
    """Watches the runners of a daemon: the peak of RssAnon + RssShmem, every 5 ms.

    tinygrad's CPU buffers are shared anonymous mappings, which the kernel counts as shmem; neither number holds pages
    of the mapped checkpoint.
    """

    def __init__(self, node: NodeProcess) -> None:
        self.peak = 0
        self._daemon = psutil.Process(node.process.pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> AnonymousPeak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            for child in self._daemon.children():
                try:
                    status = Path(f"/proc/{child.pid}/status").read_text()
                except OSError:
                    continue
                found = re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", status)
                self.peak = max(self.peak, sum(map(int, found)) * 1024)


def measure(engine: str, folder: Path, work: Path, shape: make_checkpoint.Shape) -> dict[str, object]:
    # A small KV pool: what is measured is the loading.
    arguments = ["--inference-engine", engine, "--models-dir", str(folder.parent)]
    arguments += ["--max-context", "256", "--max-sequences", "1"]
    line: dict[str, object] = {
        "bench": "load_memory",
        "engine": engine,
        "dtype_stored": shape.dtype,
        "checkpoint_gb": round(shape.total_bytes / 1e9, 2),
    }
    ratios = []
    with nodes(work / engine, arguments, arguments) as cluster:
        for layout, members in (("whole", cluster[:1]), ("second half", cluster)):
            body = {"model": folder.name, "nodes": [node.node_id for node in members]}
            begin = time.perf_counter()
            with AnonymousPeak(members[-1]) as memory:
                status, instance = cluster[0].request("POST", "/v1/instances", body, timeout=500)
            assert status == 200, instance
            seconds = time.perf_counter() - begin
            _, stats = cluster[0].request("GET", f"/v1/instances/{instance['id']}/stats")
            held = stats["stages"][-1]["weight_bytes"]
            bound = 1.15 * held + SLACK
            ratios.append(memory.peak / bound)
            line[layout] = {
                "held_mb": round(held / MIB),
                "peak_anonymous_mb": round(memory.peak / MIB),
                "bound_mb": round(bound / MIB),
                "seconds": round(seconds, 1),
            }
            cluster[0].request("DELETE", f"/v1/instances/{instance['id']}")
    line["ratio"] = round(max(ratios), 3)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["mlx", "tinygrad", "both"], default="both")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    shape = make_checkpoint.Shape(2048, 8, 8192, 32, 8, 32000, arguments.dtype)
    if arguments.dtype == "bfloat16":
        shape = make_checkpoint.Shape(2048, 16, 8192, 32, 8, 32000, arguments.dtype)
    with tempfile.TemporaryDirectory() as temporary:
        models = arguments.keep or Path(temporary) / "models"
        folder = make_checkpoint.make(models / f"memory-{arguments.dtype}", shape)
        for engine in ("mlx", "tinygrad") if arguments.engine == "both" else (arguments.engine,):
            print(json.dumps(measure(engine, folder, Path(temporary), shape)), flush=True)


if __name__ == "__main__":
    main()
