"""A real redis-server for tests, to be started, killed and started again."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
PASSWORD = "planted-redis-password"


async def until(condition: Callable[[], bool]) -> None:
    """Look again and again; pytest's timeout ends it."""
    while not condition():  # noqa: ASYNC110 (what is waited for tells nobody)
        await asyncio.sleep(0.02)


class Server:
    """A redis-server of the test's own, without anything on disk. `certificate` (PEM, with its key): TLS only."""

    def __init__(self, folder: Path, certificate: Path | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._folder = folder
        self._listens: tuple[str, ...] = ("--port", str(self.port))
        if certificate is not None:
            chain = str(certificate)
            self._listens = (
                "--port", "0", "--tls-port", str(self.port), "--tls-cert-file", chain, "--tls-key-file", chain,
                "--tls-ca-cert-file", chain, "--tls-auth-clients", "no",
            )  # fmt: skip
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            "redis-server", *self._listens, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--requirepass", PASSWORD, "--dir", str(self._folder), stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                if self._process.returncode is not None and "--tls-port" in self._listens:
                    pytest.skip("this redis-server has no TLS")
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return

    def pause(self) -> None:
        """It answers nobody, and forgets nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def flush(self) -> None:
        """It forgets everything, and goes on."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"AUTH {PASSWORD}\r\nFLUSHALL\r\n".encode())
        assert [await reader.readline() for _ in range(2)] == [b"+OK\r\n"] * 2
        writer.close()

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
