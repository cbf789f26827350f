"""Python code in a process of its own that reads one JSON line for each that it prints: the benches' other side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


class LineProcess:
    """`ask` sends a line and returns the next one; `close` kills."""

    def __init__(
        self, code: str, environment: Mapping[str, str], *arguments: str, python: str = sys.executable
    ) -> None:
        """`environment`: variables beside this process's own; `python`: the interpreter."""
        self._process = subprocess.Popen(
            [python, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def ask(self, **fields: Any) -> dict[str, Any]:
        """Raises `EOFError` when the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(fields) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise EOFError("the other side has ended") from error
        line = self._process.stdout.readline()
        if not line:
            raise EOFError("the other side has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
