"""Four daemons that are broken and healed: the same nodes, with the same homes and ports, over many cells."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.cells import API_NODE, NODES
from tests.chaos.hosts import Hosts
from tests.integration.harness import SHARED_MODELS, NodeProcess

HEAL_S = 60.0  # machines that run this are busy; nothing here is a measurement
POLL_S = 0.02
ENGINE_OF = {"a": "mlx", "b": "tinygrad", "c": "mlx", "d": "tinygrad"}  # in mixed fleets
RUNNER = "exo_node.ring.runner"  # a daemon has other children too
DAEMON_PORT = 7777  # in a namespace of its own each


class ChaosNode(NodeProcess):
    """A daemon, perhaps in a namespace of its own."""

    def __init__(
        self, home: Path, letter: str, hosts: Hosts | None, *arguments: str, env: dict[str, str] | None = None
    ) -> None:
        prefix = [] if hosts is None else ["ip", "netns", "exec", hosts.namespace(letter)]
        self.letter = letter
        self._hosts = hosts
        super().__init__(home, "--node-id", letter, *arguments, prefix=prefix, env=env)

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        """A connection to its API, from its own machine."""
        host, port = self.api.removeprefix("http://").rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        with contextlib.nullcontext() if self._hosts is None else self._hosts.inside(self.letter):
            connection.connect()
        return connection

    def request(self, method: str, path: str, body: Any = None, timeout: float = 120) -> tuple[int, Any]:
        """See `NodeProcess.request`."""
        connection = self.connection(timeout)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def runners(self) -> list[psutil.Process]:
        """One for each shard that it holds."""
        return [one for one in _children(self.process.pid) if RUNNER in _command(one)]


class Fleet:
    """Nodes a, b, c and d. Use as a context; `heal` after each disturbance."""

    def __init__(
        self,
        folder: Path,
        engines: str,
        mode: str,
        hosts: Hosts | None,
        arguments: tuple[str, ...] = (),
        letters: str = NODES,
        env: dict[str, str] | None = None,
    ) -> None:
        """Raises nothing: nodes start in `__enter__`. `arguments` and `env` go to every node of `letters`."""
        self._letters = letters
        self._env = env
        self.hosts = hosts
        self.nodes: dict[str, ChaosNode] = {}
        self._home = folder / "home"
        self._engines = engines
        models = ["--models-dir", str(SHARED_MODELS)] if SHARED_MODELS.is_dir() else []
        exact = ["--reproducible"] if mode == "exact" else []
        self._arguments = ("--max-context", "1024", "-v", *models, *exact, *arguments)
        self._ports: dict[str, int] = {}
        self._stopped: list[psutil.Process] = []
        self._killed: set[int] = set()
        self._cut: set[str] = set()

    def __enter__(self) -> Fleet:
        try:
            for letter in self._letters:
                self._start(letter)
            self._whole()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()
        for node in self.nodes.values():
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
        for node in self.nodes.values():
            node.stop()

    @property
    def api(self) -> ChaosNode:
        """The node that clients talk to."""
        return self.nodes[API_NODE]

    def _start(self, letter: str) -> None:
        port = DAEMON_PORT if self.hosts is not None else self._ports.setdefault(letter, _free_port())
        engine = ENGINE_OF[letter] if self._engines == "mixed" else self._engines
        arguments = ("--node-port", str(port), "--inference-engine", engine, *self._arguments)
        self.nodes[letter] = ChaosNode(self._home, letter, self.hosts, *arguments, env=self._env)

    def place(self, ring: str, model: str) -> tuple[int, Any]:
        """The model on these nodes in this order; asked again while a busy machine takes a node for gone."""
        deadline = time.monotonic() + HEAL_S
        while True:
            body = {"model": model, "nodes": [*ring], "min_nodes": len(ring)}
            status, answer = self.api.request("POST", "/v1/instances", body)
            if status == 200 or time.monotonic() > deadline:
                return status, answer
            time.sleep(POLL_S)

    def processes(self, letter: str, runner_only: bool) -> list[psutil.Process]:
        """What is hit: a node's runners, or all of a machine."""
        node = self.nodes[letter]
        return node.runners() if runner_only else [psutil.Process(node.process.pid), *_children(node.process.pid)]

    def strike(self, how: str, processes: list[psutil.Process], letters: str) -> None:
        """Kill or stop these processes, or cut the links of these nodes."""
        if how == "cut":
            assert self.hosts is not None
            for letter in letters:
                self.hosts.cut(letter)
                self._cut.add(letter)
            return
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        if how == "stop":
            self._stopped += processes
        else:
            self._killed |= {process.pid for process in processes}

    def revive(self) -> None:
        """What was stopped goes on and what was cut off is back, with what they still hold of the old ring."""
        for process in self._stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        self._stopped.clear()
        for letter in self._cut:
            assert self.hosts is not None
            self.hosts.mend(letter)
        self._cut.clear()

    def _release(self) -> None:
        """Nothing stays stopped; what was stopped dies of it."""
        for process in self._stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._killed |= {process.pid for process in self._stopped}
        self.revive()

    def heal(self, revive: bool, clear: bool = True) -> None:
        """Until every node runs and sees all others, and with `clear` none holds a model.

        `revive`: what was stopped goes on, else it dies.

        Raises `AssertionError` telling what is left.
        """
        if revive:
            self.revive()
        self._release()
        for letter, node in list(self.nodes.items()):
            if node.process.pid in self._killed:
                node.process.wait()
            if node.process.poll() is not None:
                self._start(letter)
        self._killed.clear()
        self._whole()
        if clear:
            self.clear()

    def _whole(self) -> None:
        for node in self.nodes.values():
            node.wait_ready()

        def met() -> bool:
            return all(len(node.topology()["nodes"]) == len(self._letters) for node in self.nodes.values())

        wait(met, lambda: {letter: _sees(node) for letter, node in self.nodes.items()})

    def clear(self) -> None:
        """No instance, no runner. Raises `AssertionError`."""

        def clean() -> bool:
            for one in self.api.topology()["instances"]:
                self.api.request("DELETE", f"/v1/instances/{one['id']}")
            seen = [one for node in self.nodes.values() for one in node.topology()["instances"]]
            return not seen and not any(node.runners() for node in self.nodes.values())

        wait(clean, lambda: f"left over: {self.left_over()}")

    def left_over(self) -> dict[str, Any]:
        """Of each node: the instances that it knows and the runners that it has."""
        return {
            letter: (
                [(one["id"], one["state"]) for one in node.topology()["instances"]],
                [one.pid for one in node.runners()],
            )
            for letter, node in self.nodes.items()
        }

    def recoveries(self) -> list[dict[str, Any]]:
        """What the API node tells of its recoveries, oldest first; empty where it does not know the route."""
        status, told = self.api.request("GET", "/v1/recoveries")
        if status != 200:
            return []
        found: list[dict[str, Any]] = told["data"] if isinstance(told, dict) else told
        return found

    def logs(self, since: float = 0.0) -> Iterator[tuple[str, str]]:
        """(name, text) of what the nodes have printed in files that were written to after `since` (time.time)."""
        for path in sorted(self._home.glob("log-*.txt")):
            if path.stat().st_mtime >= since:
                yield path.name, path.read_text(errors="replace")


def _sees(node: ChaosNode) -> object:
    """The nodes that it knows; of one that does not answer what became of it."""
    try:
        return sorted(node.topology()["nodes"])
    except (OSError, http.client.HTTPException) as error:
        return f"{error}; exit status {node.process.poll()}; {node.log()[-2000:]}"


def wait(condition: Callable[[], bool], explain: Callable[[], object], timeout: float = HEAL_S) -> None:
    """Poll; nodes that are being born or die meanwhile refuse connections, which is not yet an answer."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if condition():
                return
        if time.monotonic() > deadline:
            try:
                shown = explain()
            except (OSError, http.client.HTTPException) as error:
                shown = f"{type(error).__name__}: {error}"
            raise AssertionError(f"not within {timeout:g} s: {shown}")
        time.sleep(POLL_S)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def _command(process: psutil.Process) -> list[str]:
    """Empty for the dead."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def load() -> str:
    """How busy the machine is, for those who read times."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
