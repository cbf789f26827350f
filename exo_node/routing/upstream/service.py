"""LiteLLM as a service of the daemon: worker processes on unix sockets, started when first needed.

Nothing here imports litellm. Calls go to a worker as to any OpenAI-compatible upstream (`worker()` gives the socket;
the header `x-exo-deployment` names the deployment); what LiteLLM knows is asked by the other methods.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from exo_node.errors import ConfigurationError
from exo_node.routing.call import UpstreamError
from exo_node.routing.deployment import Deployment
from exo_node.routing.masking import Masker, secrets_in, secrets_of_environment
from exo_node.routing.sidecar.process import WorkerProcess
from exo_node.routing.sidecar.protocol import DEPLOYMENT_HEADER, Configuration, targets_of
from exo_node.signals import ChangeSignal

log = logging.getLogger("exo.litellm")

WORKERS = 2  # one may be busy with a blocking library call, or be starting again
MAX_SOCKET_PATH = 100  # bytes; 104 on macOS, 108 on Linux, with the end mark
START_WAIT_S = 60.0  # a call waits so long for the first worker; its own time limit is the adapter's
CONFIRM_S = 5.0  # a worker that is busy takes a new configuration when it can
QUERY_TIMEOUT_S = 30.0
ENSURED = 256  # names beside the configured ones that workers know; more are asked only by someone who tries names out
NOT_INSTALLED = (
    "LiteLLM is not installed: install exo-node[litellm] (deployments of OpenAI-compatible providers work without it)"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a worker serves. `base_url` holds for the unix socket at `socket`; the host in it is only a name."""

    worker: int
    socket: str
    base_url: str = "http://litellm/v1"


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """What a provider said to a one-token request. `cause` is an `ErrorClass`, "" when it answered."""

    ok: bool
    status: int
    cause: str
    message: str


def litellm_installed() -> bool:
    """Whether the extra is there; imports nothing."""
    return importlib.util.find_spec("litellm") is not None


class LiteLLMService:
    """Owns the workers of one daemon (an AsyncResource: `start`, `stop`)."""

    def __init__(
        self,
        *,
        home: Path,
        environment: Mapping[str, str],
        deployments: Sequence[Deployment] = (),
        workers: int = WORKERS,
    ) -> None:
        """`environment`: the process's variables over `.env`'s; a worker gets them by the pipe."""
        self._home = home
        self._environment = dict(environment)
        self._changed = ChangeSignal()
        self._n = workers
        self._workers: list[WorkerProcess] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._folder: Path | None = None
        self._version = 0
        self._configured = {one.id: one for one in deployments}
        self._ensured: dict[str, Deployment] = {}
        self._configuration, self._mask = self._configure()
        self._running = False

    # Life.

    def available(self) -> bool:
        """Whether LiteLLM is installed."""
        return litellm_installed()

    @property
    def started(self) -> bool:
        """Whether workers have been asked for (they may be starting still)."""
        return bool(self._tasks)

    async def start(self) -> None:
        """Be ready to start workers. No process yet: the first `ready` or call makes them."""
        self._running = True

    async def stop(self) -> None:
        """End the workers; calls in flight break. May be started again."""
        self._running = False
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._workers = []
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def ready(self) -> None:
        """Start the workers where they are not yet, and wait until one serves.

        Raises `ConfigurationError` when LiteLLM is not installed, `UpstreamError` ("unavailable") when no worker comes.
        """
        if not self.available():
            raise ConfigurationError(NOT_INSTALLED, code="litellm_not_installed", status=503)
        if not self._running:
            raise UpstreamError("the LiteLLM sidecar is stopped", "unavailable")
        if not self._tasks:
            self._launch()
        try:
            async with asyncio.timeout(START_WAIT_S):
                while self._pick() is None:
                    seen = self._changed.version
                    for task in self._tasks:
                        if task.done():
                            task.result()  # a bug of ours: not to be waited for
                    errors = [w.error for w in self._workers if w.hopeless]
                    if errors:
                        raise UpstreamError(f"the LiteLLM sidecar does not start: {errors[0]}", "unavailable")
                    await self._changed.wait(seen)
        except TimeoutError:
            raise UpstreamError(f"no LiteLLM worker answers within {START_WAIT_S:g} s", "unavailable") from None

    async def serving(self) -> None:
        """Wait until a worker serves; starts none."""
        while self._pick() is None:
            await self._changed.wait(self._changed.version)

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[Endpoint]:
        """The least busy worker that answers, counted as busy for the length of the block. Raises what `ready` does.

        A worker that dies in the block breaks the connection: the caller's `UpstreamError` ("reset", "refused").
        """
        await self.ready()
        worker = self._pick()
        assert worker is not None  # nothing awaited since `ready` saw one
        worker.in_flight += 1
        try:
            yield Endpoint(worker.number, str(worker.socket))
        finally:
            worker.in_flight -= 1

    async def update(self, deployments: Sequence[Deployment], environment: Mapping[str, str] | None = None) -> None:
        """Take another list of deployments (and other variables). When it returns, every worker that answers has it."""
        if environment is not None:
            self._environment = dict(environment)
        self._configured = {one.id: one for one in deployments}
        # Calls on their way to those in no configuration go on.
        self._ensured = {name: one for name, one in self._ensured.items() if name not in self._configured}
        await self._tell_workers()

    async def ensure(self, deployment: Deployment) -> None:
        """Know this one too: one made of a key in the environment is told when it is first asked."""
        name = deployment.id
        if (self._ensured.get(name) or self._configured.get(name)) == deployment:
            return
        self._ensured.pop(name, None)
        if len(self._ensured) >= ENSURED:
            del self._ensured[next(iter(self._ensured))]
        self._ensured[name] = deployment
        await self._tell_workers()

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """What the workers know, with keys."""
        return tuple({**self._configured, **self._ensured}.values())

    def status(self) -> list[dict[str, Any]]:
        """One row per worker, for status pages. Memory in bytes, times in seconds."""
        return [
            {"worker": w.number, "state": w.state, "pid": w.pid, "rss": w.rss, "starts": w.starts,
             "start_s": w.start_s, "in_flight": w.in_flight, "error": w.error}
            for w in self._workers
        ]  # fmt: skip

    # What LiteLLM knows. All start the workers where needed and raise what `ready` does.

    async def facts(self) -> dict[str, list[Any]]:
        """Its whole table of models; rows as `sidecar.queries.Knowledge.facts` makes them."""
        found: dict[str, list[Any]] = await self._query("facts", {})
        return found

    async def tell_callback(self, name: str, event: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> None:
        """Tell LiteLLM's own callback `name` of a finished call (`sidecar.loggers` says in which shape).

        `params`: the configuration's `callback_params`.

        Raises what `ready` does, and `UpstreamError` where LiteLLM cannot make it (a key that is missing) or it failed.
        """
        said = await self._post(f"tell/{name}", {"event": event, "params": params or {}})
        if said["error"]:
            raise UpstreamError(said["error"], "unavailable")

    async def check_key(self, deployment: Deployment | str) -> KeyCheck:
        """Ask the deployment for one token: **costs money** where the provider charges. For demand only."""
        name = deployment if isinstance(deployment, str) else deployment.id
        return KeyCheck(**await self._query("check", {}, {DEPLOYMENT_HEADER: name}))

    async def _query(self, name: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
        return await self._post(f"query/{name}", body, headers)

    async def _post(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
        timeout = aiohttp.ClientTimeout(total=QUERY_TIMEOUT_S)
        async with self.worker() as endpoint:
            connector = aiohttp.UnixConnector(endpoint.socket)
            try:
                async with (
                    aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                    session.post(f"http://litellm/{path}", json=body, headers=headers) as response,
                ):
                    response.raise_for_status()
                    return await response.json()
            except (aiohttp.ClientError, TimeoutError) as e:
                problem = type(e).__name__
                raise UpstreamError(f"the LiteLLM sidecar did not answer a query: {problem}", "unavailable") from e

    # Inside.

    async def _tell_workers(self) -> None:
        self._configuration, self._mask = self._configure()
        for worker in self._workers:
            worker.configure(self._configuration, self._mask)
        waits = [worker.confirmed(self._configuration.version) for worker in self._workers]
        with contextlib.suppress(TimeoutError):  # a silent worker gets no calls, and takes the line when it wakes
            async with asyncio.timeout(CONFIRM_S):
                await asyncio.gather(*waits)

    def _configure(self) -> tuple[Configuration, Masker]:
        deployments = self.deployments
        self._version += 1
        secrets = secrets_of_environment(self._environment)
        secrets |= {s for deployment in deployments for s in secrets_in(deployment.params)}
        return Configuration(self._version, os.getpid(), targets_of(deployments), self._environment), Masker(secrets)

    def _launch(self) -> None:
        folder = _private_folder(self._home)
        self._folder = folder
        for number in range(self._n):
            worker = WorkerProcess(number, folder / f"{number}.sock", self._environment, self._changed)
            worker.configure(self._configuration, self._mask)
            self._workers.append(worker)
            self._tasks.append(asyncio.create_task(self._keep(worker), name=f"litellm-{number}"))

    async def _keep(self, worker: WorkerProcess) -> None:
        """The first worker at once, each other when the one before it serves: the first call waits for one import."""
        if worker.number:
            before = self._workers[worker.number - 1]
            while before.starts == 0 or before.state == "starting":
                await self._changed.wait(self._changed.version)
        await worker.run()

    def _pick(self) -> WorkerProcess | None:
        serving = [worker for worker in self._workers if worker.state == "serving" and worker.reachable]
        return min(serving, key=lambda w: (w.in_flight, w.number), default=None)


def _private_folder(home: Path) -> Path:
    """A new folder that only this user can enter, with room for a socket's name in a socket's address."""
    run = home / "run"
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    if len(os.fsencode(run / "litellm-xxxxxxxx" / "0.sock")) <= MAX_SOCKET_PATH:
        return Path(tempfile.mkdtemp(prefix="litellm-", dir=run))
    return Path(tempfile.mkdtemp(prefix="exo-litellm-"))
