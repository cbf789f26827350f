"""Finds the node to talk to, or starts one for the length of a call.

A running node keeps `$EXO_HOME/run/<anything>.json` with `{"pid", "api_url", "node_id", "started"}`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from exo_node.cli.client import Client
from exo_node.cli.parser import Parsed
from exo_node.cli.serve import PARENT_PIPE
from exo_node.config import DEFAULT_API_PORT, Settings
from exo_node.errors import ConfigurationError, ExoError, PeerUnavailable
from exo_node.http_tls import digest
from exo_node.options import BY_FIELD

if TYPE_CHECKING:
    import subprocess

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.01


@dataclass(frozen=True, slots=True, order=True)
class RunFile:
    """A node that runs (or ran) with this EXO_HOME. Later ones are larger."""

    started: float
    pid: int
    api_url: str
    node_id: str
    certificate: str = ""  # of an https node: SHA-256 in hex


def run_files(home: Path) -> list[RunFile]:
    """Nodes whose processes live, newest first. Files that cannot be read are somebody's half-written or old ones."""
    found = []
    for path in (home / "run").glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            data = json.loads(path.read_text())
            one = RunFile(
                float(data["started"]),
                int(data["pid"]),
                str(data["api_url"]),
                str(data["node_id"]),
                str(data.get("certificate", "")),
            )
            if _lives(one.pid):
                found.append(one)
    return sorted(found, reverse=True)


def find_node(parsed: Parsed, settings: Settings) -> Client | None:
    """A connected client: of `--host` and `--api-port` when one is given (nobody there is an error), else of the
    newest living node."""
    if "api_port" in parsed.flags or "api_host" in parsed.flags:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.api_host, settings.api_host)
        port = DEFAULT_API_PORT if settings.api_port is None else settings.api_port
        place = f"{f'[{host}]' if ':' in host else host}:{port}"
        ours = (one for one in run_files(settings.home) if one.api_url == f"https://{place}")
        client = _client(next(ours, place), settings)
        client.connect()
        return client
    return local_node(settings)


def local_node(settings: Settings) -> Client | None:
    """A connected client of this machine's newest living node."""
    for one in run_files(settings.home):
        client = _client(one, settings)
        with suppress(PeerUnavailable):  # a number that another process has by now
            client.connect()
            return client
    return None


def require_node(parsed: Parsed, settings: Settings) -> Client:
    """As `find_node`; no node is an error."""
    client = find_node(parsed, settings)
    if client is None:
        raise PeerUnavailable(f"no node is running here (EXO_HOME {settings.home}); start one with: exo")
    return client


@contextmanager
def node_for_call(parsed: Parsed, settings: Settings, start_flags: Sequence[str]) -> Iterator[Client]:
    """A client of the running node; where none runs, of one that is started now and stopped at the end.

    `start_flags` are the settings that only a node that starts can follow: with a running one they are an error.
    """
    given = [BY_FIELD[field].flags[0] for field in start_flags if field in parsed.flags]
    client = find_node(parsed, settings)
    if client is not None:
        try:
            if given:
                raise ConfigurationError(
                    f"{given[0]} is for a node that this call would start, but one already runs at {client.url}"
                )
            yield client
        finally:
            client.close()
        return
    arguments = [*_spelled(parsed, (*start_flags, "api_key", "verbose", "debug")), "--api-port=0"]
    with temporary_node(settings, arguments) as started:
        client = _client(started, settings)
        try:
            client.connect()
            yield client
        finally:
            client.close()


@contextmanager
def temporary_node(settings: Settings, arguments: Sequence[str]) -> Iterator[RunFile]:
    """Run `exo serve` with these arguments as a child while the block runs; gives where it is.

    It ends with this process however this process dies (`cli/serve.py`). Raises `ExoError` with its last words when it
    does not come up.
    """
    import subprocess  # only who starts a node pays for it

    folder = settings.home / "run"
    log_path = folder / f"call-{os.getpid()}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        log_path.touch()
    except OSError as e:
        raise ExoError(f"{folder}: cannot be written ({e.strerror}), so a node for this call cannot be found") from e
    read_end, write_end = os.pipe()
    safe_path = ["-P"] if sys.flags.safe_path else []
    try:
        with log_path.open("w+b") as log:
            child = subprocess.Popen(
                [sys.executable, *safe_path, "-m", "exo_node", "serve", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=None if settings.verbose or settings.debug else log,
                pass_fds=(read_end,),
                env={**os.environ, PARENT_PIPE: str(read_end)},
                start_new_session=True,  # Ctrl-C is for us: it ends an answer, not the node
            )
            try:
                yield _wait_ready(child, settings.home, log)
            finally:
                _stop(child)
    finally:
        os.close(read_end)
        os.close(write_end)
        log_path.unlink(missing_ok=True)


def _wait_ready(child: subprocess.Popen[bytes], home: Path, log: IO[bytes]) -> RunFile:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        for one in run_files(home):
            if one.pid == child.pid:
                return one
        if child.poll() is not None:
            log.seek(0)
            words = log.read().decode(errors="replace").strip().splitlines()
            reason = words[-1].removeprefix("exo: ") if words else f"exit status {child.returncode}, see -v"
            raise ExoError(f"the node for this call did not start: {reason}")
        time.sleep(POLL_S)
    raise ExoError(f"the node for this call was not ready after {START_TIMEOUT_S:g} s (-v shows what it does)")


def _stop(child: subprocess.Popen[bytes]) -> None:
    import subprocess

    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _spelled(parsed: Parsed, fields: Sequence[str]) -> list[str]:
    """The flags of a command line again, for a child's."""
    words: list[str] = []
    for field in fields:
        if field not in parsed.flags:
            continue
        value, flag = parsed.flags[field], BY_FIELD[field].flags[0]
        if field == "verbose":
            words.append(f"-{'v' * value}")
        elif isinstance(value, bool):
            words.append(flag if value else f"--no-{field.replace('_', '-')}")
        else:
            words += [f"{flag}={one}" for one in (value if isinstance(value, list) else [value])]
    return words


def _client(node: RunFile | str, settings: Settings) -> Client:
    """Of a node of this machine, or of what is at `host:port`: by https where the settings name certificates.

    Without --cacert that node must show the certificate of --tls-cert.
    """
    wait_s = settings.response_timeout
    if isinstance(node, RunFile):
        return Client(node.api_url, settings.api_key, wait_s, digest=node.certificate)
    if settings.cacert is None and settings.tls_cert is None:
        return Client(f"http://{node}", settings.api_key, wait_s)
    known = "" if settings.cacert is not None or settings.tls_cert is None else digest(settings.tls_cert)
    return Client(f"https://{node}", settings.api_key, wait_s, digest=known, cacert=settings.cacert)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
