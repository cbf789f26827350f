"""Runs chat templates in processes of their own (template_process.py), which end with whatever a template does to them.

A template is code that came with a model: loops without an end, texts that double, numbers of a million digits. None of
that can be stopped within a process of Python, so it happens in one that the system ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo_node.errors import CheckpointError, ExoError, InvalidRequest

CPU_S = 2.0  # of one rendering; a real template takes milliseconds
WALL_S = 60.0  # the same on a machine that is busy with everything else
MEMORY = 1 << 30  # bytes of address space
PROCESSES = 4  # at once; one is kept
REFUSED_S = 60.0  # a template that took all of its time is not tried again before
MAX_REFUSED = 64
_LENGTH = struct.Struct(">I")
_PASSED_ON = ("TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # no other variable: some are secrets


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """`takes_parts`: it walks over lists of content parts. `variables`: names that it reads from outside."""

    takes_parts: bool
    variables: frozenset[str]


class TemplateSandbox:
    """Processes that start with the first template and end with this one. Blocking; safe to use from several threads.

    `cpu_s`, `wall_s` (seconds) and `memory` (bytes of address space, where the system knows such limits) are one
    rendering's.
    """

    def __init__(
        self, *, cpu_s: float = CPU_S, wall_s: float = WALL_S, memory: int = MEMORY, processes: int = PROCESSES
    ) -> None:
        self._cpu_s, self._wall_s, self._memory = cpu_s, wall_s, memory
        self._room = threading.BoundedSemaphore(processes)
        self._lock = threading.Lock()
        self._idle: _Process | None = None
        self._refused: dict[str, float] = {}  # template -> until when

    def facts(self, source: str) -> TemplateFacts:
        """What a template's text says of it. Raises `CheckpointError` for one that does not compile."""
        try:
            answer = self._ask(source, {"source": source})
        except InvalidRequest as error:
            raise CheckpointError(error.message) from error
        if "error" in answer:
            raise CheckpointError(f"the model's chat template does not compile ({answer['why']})")
        return TemplateFacts(answer["takes_parts"], frozenset(answer["variables"]))

    def render(self, source: str, variables: Mapping[str, Any], limit: int) -> str:
        """The text that a template makes of plain data; at most `limit` characters. Raises `InvalidRequest`."""
        answer = self._ask(source, {"source": source, "variables": variables, "limit": limit})
        if "error" not in answer:
            return str(answer["text"])
        if answer["error"] == "endless":
            raise _endless()
        what = "refused the messages" if answer["error"] == "refused" else "cannot render these messages"
        raise InvalidRequest(f"the model's chat template {what}: {answer['why']}", param="messages")

    def close(self) -> None:
        with self._lock:
            process, self._idle = self._idle, None
        if process is not None:
            process.end()

    def _ask(self, source: str, request: Mapping[str, Any]) -> dict[str, Any]:
        raw = json.dumps(request).encode()
        with self._room:
            if self._refused.get(source, 0.0) > time.monotonic():
                raise _endless()
            process = self._take()
            try:
                process.tell(raw)
            except OSError:  # it ended for want of work just then
                process.end()
                process = _Process(self._cpu_s, self._memory)
                process.tell(raw)
            try:
                answer = process.answer(self._wall_s)
            except _Ended as error:
                process.end()
                with self._lock:
                    while len(self._refused) >= MAX_REFUSED:
                        del self._refused[next(iter(self._refused))]
                    self._refused[source] = time.monotonic() + REFUSED_S
                raise _endless() from error
            except BaseException:
                process.end()
                raise
            self._give_back(process)
            return answer

    def _take(self) -> _Process:
        with self._lock:
            process, self._idle = self._idle, None
        if process is not None and process.lives:
            return process
        return _Process(self._cpu_s, self._memory)

    def _give_back(self, process: _Process) -> None:
        with self._lock:
            if self._idle is None:
                self._idle = process
                return
        process.end()


def _endless() -> InvalidRequest:
    return InvalidRequest("the model's chat template does not come to an end; use /v1/completions")


class _Ended(Exception):
    """The process is gone, or does not answer."""


class _Process:
    def __init__(self, cpu_s: float, memory: int) -> None:
        script = Path(__file__).with_name("template_process.py")
        command = [sys.executable, "-I", "-X", "utf8", str(script), json.dumps(sys.path), str(cpu_s), str(memory)]
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            raise ExoError(f"the process for chat templates cannot be started: {error.strerror}") from error

    @property
    def lives(self) -> bool:
        return self._process.poll() is None and not self._is_readable(0)

    def tell(self, raw: bytes) -> None:
        """Raises `OSError` where it does not listen any more."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(_LENGTH.pack(len(raw)) + raw)
        stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any]:
        """Raises `_Ended`."""
        deadline = time.monotonic() + seconds
        head = self._read(_LENGTH.size, deadline)
        return dict(json.loads(self._read(_LENGTH.unpack(head)[0], deadline)))

    def end(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it did not take any more
                pipe.close()
        self._process.wait()

    def _read(self, size: int, deadline: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        data = bytearray()
        while len(data) < size:
            if not self._is_readable(max(0.0, deadline - time.monotonic())):
                raise _Ended
            piece = os.read(stdout.fileno(), min(1 << 20, size - len(data)))
            if not piece:
                raise _Ended
            data += piece
        return bytes(data)

    def _is_readable(self, seconds: float) -> bool:
        """Also where its output has ended."""
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)  # type: ignore[arg-type]
        return bool(poll.poll(seconds * 1000))
