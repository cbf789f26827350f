#!/usr/bin/env python3
"""What a gateway adds: latency, requests/s and CPU per request and per 100-chunk stream. One JSON line per mode.

Modes: direct; floor (a 40-line aiohttp pass-through); passthrough (our client behind bare aiohttp), adapter
(with the decision before it); exo (the daemon);
acompletion (LiteLLM in the asking process: its CPU is the client's too); proxy (LiteLLM's, run by --proxy-python);
portkey (--portkey FOLDER with `npm install @portkey-ai/gateway`). A mode that cannot run says why.

CPU is user + system time of the gateway's process and its children over the requests of the best of --rounds rounds,
which are interleaved. The last line holds the bars: exo <= 1.3 x floor, proxy >= 10 x exo plain, >= 30 x streamed.

    scripts/bench/gateway.py [--modes floor,exo] [--concurrency 1,16,64] [--seconds 2] [--rounds 2] [--gap-ms 0]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(HERE)]

from gateway_load import Load, load  # noqa: E402

MODES = ("direct", "floor", "passthrough", "adapter", "exo", "acompletion", "proxy", "portkey")
START_S = 90.0


class CannotRun(Exception):
    """Why a mode is left out."""


@dataclass
class Gateway:
    """A running one. `process` None: there is none (direct). `ask`: it makes its own load (acompletion)."""

    url: str
    process: subprocess.Popen[str] | None
    headers: dict[str, str] = field(default_factory=dict)
    ask: bool = False

    def cpu(self) -> float:
        """Seconds of CPU so far, children included."""
        if self.process is None:
            me = psutil.Process().cpu_times()
            return me.user + me.system
        total = 0.0
        top = psutil.Process(self.process.pid)
        for one in [top, *top.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system
        return total

    def rss_mb(self) -> float | None:
        if self.process is None:
            return None
        top = psutil.Process(self.process.pid)
        return round(sum(p.memory_info().rss for p in [top, *top.children(recursive=True)]) / 1e6, 1)


@contextlib.contextmanager
def child(command: list[str], *, env: dict[str, str] | None = None, log: Path | None = None) -> Iterator[Any]:
    """A process that ends with its standard input, or by SIGTERM."""
    output: IO[str] | int = subprocess.PIPE if log is None else log.open("w")
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=output, stderr=None if log is None else subprocess.STDOUT, text=True,
        env={**os.environ, **(env or {})}, cwd=ROOT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(3 if log is None else 0.1)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The line that a child prints once it listens."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise CannotRun(f"{process.args!r} ended at once")
    found: dict[str, Any] = json.loads(line)
    return found


@contextlib.contextmanager
def gateway(mode: str, upstream: str, arguments: argparse.Namespace, home: Path) -> Iterator[Gateway]:
    """Start the gateway of `mode`. Raises `CannotRun`."""
    with contextlib.ExitStack() as stack:
        if mode == "direct":
            yield Gateway(upstream, None)
        elif mode in ("floor", "passthrough", "adapter", "acompletion"):
            script = {"floor": "gateway_floor.py", "acompletion": "gateway_litellm.py"}.get(mode, "gateway_small.py")
            command = [sys.executable, str(HERE / script), upstream, *(["adapter"] if mode == "adapter" else [])]
            process = stack.enter_context(child(command))
            yield Gateway(said(process)["url"], process, ask=mode == "acompletion")
        elif mode == "exo":
            yield from _exo(stack, upstream, home)
        elif mode == "proxy":
            yield from _proxy(stack, upstream, arguments.proxy_python, home)
        else:
            yield from _portkey(stack, upstream, arguments.portkey, home)


def _exo(stack: contextlib.ExitStack, upstream: str, home: Path) -> Iterator[Gateway]:
    config = home / "litellm.json"
    params = {"model": "openai/bench", "api_key": "key", "api_base": upstream + "/v1"}
    config.write_text(json.dumps({"model_deployments": [{"model_name": "bench", "litellm_params": params}]}))
    log = home / "exo.log"
    command = [sys.executable, "-m", "exo_node", "serve", "--api-port", "0", "--discovery-module", "none", "--offline",
               "--litellm-config", str(config)]  # fmt: skip
    process = stack.enter_context(child(command, env={"EXO_HOME": str(home / "exo")}, log=log))
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CannotRun(f"exo ended: {log.read_text()[-400:]}")
        for path in (home / "exo" / "run").glob("*.json"):
            with contextlib.suppress(ValueError, OSError, KeyError):
                yield Gateway(json.loads(path.read_text())["api_url"], process)
                return
        time.sleep(0.05)
    raise CannotRun("exo was not up in time")


def _proxy(stack: contextlib.ExitStack, upstream: str, python: str, home: Path) -> Iterator[Gateway]:
    program = Path(python).parent / "litellm"
    installed = subprocess.run([python, "-c", "import fastapi, uvicorn, litellm"], capture_output=True, check=False)
    if installed.returncode or not program.exists():
        raise CannotRun(f"litellm[proxy] is not installed for {python} (--proxy-python)")
    config = home / "proxy.yaml"
    config.write_text(
        "model_list:\n  - model_name: bench\n    litellm_params:\n      model: openai/bench\n"
        f"      api_base: {upstream}/v1\n      api_key: key\n"
    )
    port = _free_port()
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # on loopback; a key would cost it more
    }
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    process = stack.enter_context(child(command, env=env, log=home / "proxy.log"))
    yield _listening(process, port, home / "proxy.log", {})


def _portkey(stack: contextlib.ExitStack, upstream: str, folder: str, home: Path) -> Iterator[Gateway]:
    node = shutil.which("node")
    server = Path(folder) / "node_modules/@portkey-ai/gateway/build/start-server.js" if folder else None
    if node is None or server is None or not server.exists():
        raise CannotRun("no node, or no @portkey-ai/gateway in --portkey FOLDER")
    port = _free_port()
    command = [node, str(server), f"--port={port}", "--headless"]
    process = stack.enter_context(child(command, env={"TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}, log=home / "portkey.log"))
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": upstream + "/v1"}
    yield _listening(process, port, home / "portkey.log", headers)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listening(process: subprocess.Popen[str], port: int, log: Path, headers: dict[str, str]) -> Gateway:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CannotRun(f"ended with {process.returncode}: {log.read_text()[-400:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return Gateway(f"http://127.0.0.1:{port}", process, headers)
        time.sleep(0.1)
    raise CannotRun(f"not up within {START_S:g} s: {log.read_text()[-400:]}")


def run(one: Gateway, concurrency: int, seconds: float, stream: bool) -> Load:
    if not one.ask:
        return asyncio.run(load(one.url, concurrency=concurrency, seconds=seconds, stream=stream, headers=one.headers))
    assert one.process is not None
    assert one.process.stdin is not None
    order = {"concurrency": concurrency, "seconds": seconds, "stream": stream}
    one.process.stdin.write(json.dumps(order) + "\n")
    one.process.stdin.flush()
    return Load(**said(one.process))


def measure(
    one: Gateway, arguments: argparse.Namespace, cells: dict[str, list[dict[str, float]]], broken: dict[str, str]
) -> None:
    """One round: every cell once. `broken`: plain or stream -> what was wrong with an answer."""
    for stream in (False, True):
        kind = "stream" if stream else "plain"
        if kind in broken:
            continue
        try:
            run(one, 4, 0.5, stream)  # warm: connections, first imports
        except (RuntimeError, ConnectionError) as e:
            broken[kind] = str(e)
            continue
        for concurrency in arguments.concurrency:
            before = one.cpu()
            found = run(one, concurrency, arguments.seconds, stream)
            spent = one.cpu() - before
            count = len(found.latencies)
            ordered = sorted(found.latencies)
            cells.setdefault(f"{kind}_{concurrency}", []).append(
                {
                    "n": count,
                    "p50_ms": statistics.median(ordered) * 1e3,
                    "p99_ms": ordered[min(count - 1, int(count * 0.99))] * 1e3,
                    "first_p50_ms": statistics.median(found.first) * 1e3,
                    "rps": count / found.elapsed,
                    "cpu_ms": spent / count * 1e3,
                }
            )


def best(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The round with the least CPU per request: what else runs on the machine only ever adds."""
    return {name: round(value, 3) for name, value in min(rounds, key=lambda r: r["cpu_ms"]).items()}


def bars(results: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Ratios of CPU, by cell."""

    def ratio(over: str, under: str, kind: str) -> dict[str, float]:
        a, b = results.get(over, {}), results.get(under, {})
        return {cell: round(a[cell]["cpu_ms"] / b[cell]["cpu_ms"], 2)
                for cell in a if cell in b and cell.startswith(kind) and b[cell]["cpu_ms"]}  # fmt: skip

    found: dict[str, Any] = {}
    for ours in ("exo", "adapter", "passthrough"):
        if ours in results:
            found[f"{ours}_over_floor"] = {"bar": "<= 1.3", **ratio(ours, "floor", "")}
            found[f"proxy_over_{ours}_plain"] = {"bar": ">= 10", **ratio("proxy", ours, "plain")}
            found[f"proxy_over_{ours}_stream"] = {"bar": ">= 30", **ratio("proxy", ours, "stream")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", type=lambda s: s.split(","), default=list(MODES))
    parser.add_argument("--concurrency", type=lambda s: [int(n) for n in s.split(",")], default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each cell in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--gap-ms", type=float, default=0.0, help="between a stream's chunks")
    parser.add_argument("--proxy-python", default=sys.executable, help="Python that has litellm[proxy]")
    parser.add_argument("--portkey", default="", help="folder with node_modules/@portkey-ai/gateway")
    arguments = parser.parse_args()
    if unknown := set(arguments.modes) - set(MODES):
        parser.error(f"no such mode: {', '.join(sorted(unknown))}")
    cells: dict[str, dict[str, list[dict[str, float]]]] = {mode: {} for mode in arguments.modes}
    left_out: dict[str, str] = {}
    broken: dict[str, dict[str, str]] = {}
    rss: dict[str, float | None] = {}
    upstream_command = [sys.executable, str(HERE / "gateway_upstream.py"), "--gap-ms", str(arguments.gap_ms)]
    with child(upstream_command) as upstream:
        url = said(upstream)["url"]
        for _ in range(arguments.rounds):
            for mode in arguments.modes:
                if mode in left_out:
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        with gateway(mode, url, arguments, Path(folder)) as one:
                            measure(one, arguments, cells[mode], broken.setdefault(mode, {}))
                            rss[mode] = one.rss_mb()
                    except (CannotRun, RuntimeError, ConnectionError) as e:
                        left_out[mode] = f"{type(e).__name__}: {e}"
    results: dict[str, dict[str, dict[str, float]]] = {}
    for mode in arguments.modes:
        if mode in left_out:
            print(json.dumps({"mode": mode, "left_out": left_out[mode]}), flush=True)
            continue
        results[mode] = {cell: best(rounds) for cell, rounds in cells[mode].items()}
        for cell, found in results[mode].items():
            base = results.get("direct", {}).get(cell)
            if base is not None and mode != "direct":
                found["added_p50_ms"] = round(found["p50_ms"] - base["p50_ms"], 3)
        wrong = {"broken": broken[mode]} if broken.get(mode) else {}
        print(json.dumps({"mode": mode, "rss_mb": rss.get(mode), **wrong, **results[mode]}), flush=True)
    print(json.dumps({"bars": bars(results), "gap_ms": arguments.gap_ms}), flush=True)


if __name__ == "__main__":
    main()
