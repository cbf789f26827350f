"""What a daemon leaves for commands on its machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from pathlib import Path

from exo_node.http_tls import digest
from exo_node.whole_file import replace_file

log = logging.getLogger("exo")


class RunFile:
    """`$EXO_HOME/run/<pid>.json`: how commands on this machine find the running node."""

    def __init__(self, home: Path) -> None:
        self._path = home / "run" / f"{os.getpid()}.json"

    def write(self, *, node_id: str, api_url: str, certificate: Path | None) -> None:
        """`certificate`: of the API's port, by which those commands know it; None without TLS."""
        content = {"pid": os.getpid(), "api_url": api_url, "node_id": node_id, "started": time.time()}
        if certificate is not None:
            content["certificate"] = digest(certificate)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, json.dumps(content).encode())
        except OSError as error:
            log.warning("%s: cannot be written (%s): commands will not find this node", self._path, error.strerror)

    def remove(self) -> None:
        with contextlib.suppress(OSError):  # a disk that has become read-only; the process that it names will be gone
            self._path.unlink(missing_ok=True)
