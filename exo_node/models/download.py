"""Fetching a model from the Hugging Face hub into the Hugging Face cache, in a process of its own (`fetch`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo_node.errors import DownloadError, ExoError, ModelNotFound

log = logging.getLogger(__name__)
_STOP_SECONDS = 5.0  # how long a cancelled fetch may take to end before it is killed


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """Bytes on disk and bytes in all of one repository's wanted files."""

    repo_id: str
    done: int
    total: int


OnProgress = Callable[[DownloadProgress], None]


class ShardDownloader:
    """Fetches whole models (single tensors of a shard: later). One process per running fetch.

    HF_ENDPOINT, HF_TOKEN and, unless `hf_home` is given, HF_HOME are taken from the environment. What was fetched of a
    file stays after a failure and is resumed.
    """

    def __init__(
        self, *, offline: bool = False, hf_home: Path | None = None, max_parallel_downloads: int = 8,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._offline = offline
        self._hf_home = hf_home
        self._workers = max_parallel_downloads
        self._environment = environment
        self._running: dict[str, asyncio.Lock] = {}

    async def fetch(self, repo_id: str, on_progress: OnProgress) -> Path:
        """Fetch what is missing of `repo_id` and return its folder. Cancelling stops the fetch; what came is kept.

        A second call for the same repository waits for the first. Raises `ModelNotFound` (no such repository),
        `DownloadError` (offline, gated, unreachable, or nothing there that could be run).
        """
        if self._offline:
            raise DownloadError(f"{repo_id} is not on this machine and the node runs --offline: it cannot be fetched")
        lock = self._running.setdefault(repo_id, asyncio.Lock())
        async with lock:
            return await self._fetch(repo_id, on_progress)

    async def _fetch(self, repo_id: str, on_progress: OnProgress) -> Path:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "exo_node.models.fetch",
            repo_id,
            "--workers",
            str(self._workers),
            stdin=asyncio.subprocess.PIPE,  # stays open: the child ends when it closes, however this process ends
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._child_environment(),
        )
        assert process.stdout is not None and process.stderr is not None
        result: Path | ExoError | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                errors = tasks.create_task(_forward(process.stderr))
                async for line in process.stdout:
                    outcome = _read(repo_id, line, on_progress)
                    result = outcome if outcome is not None else result
            await process.wait()
        finally:
            await _stop(process)
        if isinstance(result, ExoError):
            raise result
        if result is None:
            last = errors.result() or f"exit status {process.returncode}"
            raise DownloadError(f"fetching {repo_id} ended early ({last[-300:]}); what came is kept, try again")
        return result

    def _child_environment(self) -> dict[str, str]:
        out = dict(os.environ if self._environment is None else self._environment)
        if self._hf_home is not None:
            out["HF_HOME"] = str(self._hf_home)
            out.pop("HF_HUB_CACHE", None)
        # The parent's own import path, so that the child finds this package wherever it runs from.
        out["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        return {**out, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}


def _read(repo_id: str, line: bytes, on_progress: OnProgress) -> Path | ExoError | None:
    """One line of the child: reports progress; returns the outcome when it is one."""
    try:
        event: dict[str, Any] = json.loads(line)
        kind = event["event"]
    except (ValueError, TypeError, KeyError):
        log.warning("fetch %s: %r", repo_id, line[:200])
        return None
    if kind in ("plan", "progress"):
        on_progress(DownloadProgress(repo_id, event["done"], event["total"]))
        return None
    if kind == "done":
        return Path(event["path"])
    if event["kind"] == "not_found":
        return ModelNotFound(event["message"], param="model")
    error = DownloadError(event["message"], param="model")
    error.retryable = event["kind"] == "network"
    return error


async def _forward(stream: asyncio.StreamReader) -> str:
    """Log what the child writes to standard error; return the last line."""
    last = ""
    async for line in stream:
        last = line.decode(errors="replace").strip() or last
        log.debug("fetch: %s", last)
    return last


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
