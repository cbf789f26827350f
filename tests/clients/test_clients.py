"""Other projects' client packages against a ring and against a cloud: the same assertions for both (contract.py).

Not in the default suite, which has its minutes: `scripts/clients` makes the environments and runs all.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.contract import check_of
from tests.clients.stage import HERE, Backend, Program, Stage, staged
from tests.integration.harness import wait_until
from tests.standins import Script

pytestmark = pytest.mark.clients

BUILD = HERE.parents[1] / "build"
NODE = HERE / "node" / "node_modules"
CHAT = ("chat", "stream", "tools", "tools_stream", "structured", "errors", "cancel")
OPENAI = (
    *(*CHAT, "stream_helper", "stream_async", "structured_stream", "timeout", "models", "headers", "choices", "seed"),
    *("completions", "embeddings", "retries", "retries_overload", "broken_stream"),
)
RESPONSES = (*CHAT, "stream_helper", "stored", "broken_stream")
ANTHROPIC = (*CHAT, "bearer", "stream_async", "structured_parse", "models", "count", "retries", "retries_overload",
             "broken_stream")  # fmt: skip
OLLAMA = (
    *(*CHAT, "stream_async", "chat_generate", "stream_generate", "structured_generate", "models", "embeddings"),
    "broken_stream",
)
LANGCHAIN = (
    *("chat", "chat_batch", "stream", "stream_async", "tools", "structured", "structured_dict", "errors", "cancel"),
    "embeddings",
)
LITELLM = ("chat", "stream", "stream_async", "tools", "structured", "errors", "cancel", "embeddings")
AGENTS = tuple(
    f"{what}_{api}"
    for what in ("chat", "stream", "tools", "structured", "errors")
    for api in ("responses", "completions")
)
NPM_OPENAI = (
    *(*CHAT, "stream_helper", "tools_runner", "timeout", "models", "headers", "embeddings", "retries"),
    *("broken_stream", "chat_responses", "stream_responses"),
)
NPM_ANTHROPIC = (*CHAT, "bearer", "timeout", "models", "count", "retries", "broken_stream")
NPM_OLLAMA = (
    *("chat", "stream", "stream_generate", "tools", "structured", "errors", "cancel", "models", "embeddings"),
    "broken_stream",
)
# What a stand-in does meanwhile. Only where there is one: a ring has no quota of another.
SCRIPTED = {
    "retries": Script(status=429, retry_after="1"),
    "retries_overload": Script(status=503, retry_after="1"),
    "broken_stream": Script(error_after=3),
}
ENDLESS = Script(chunks=5000, gap_s=0.02)
LEAVES = ("cancel", "timeout")


@dataclass(frozen=True)
class Client:
    """A program: the environment that it needs, what it must be able to do, and with which backends."""

    file: str
    scenarios: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    environment: str | None = "clients"  # below build; None: the test environment
    backends: tuple[str, ...] = ("ring", "cloud", "claude")

    def command(self) -> list[str]:
        """Skips where the environment is not there."""
        if self.file.endswith(".mjs"):
            if shutil.which("node") is None or not NODE.is_dir():
                pytest.skip("no Node.js, or its packages are not installed: scripts/clients does it where there is npm")
            return ["node", str(HERE / "node" / self.file)]
        python = Path(sys.executable) if self.environment is None else BUILD / self.environment / "bin" / "python"
        if not python.exists():
            pytest.skip(f"no build/{self.environment}: scripts/clients makes it")
        return [str(python), str(HERE / "python" / self.file), *self.arguments]


CLIENTS = {
    "openai2": Client("openai_chat.py", OPENAI, environment=None),
    "openai3": Client("openai_chat.py", OPENAI),
    "responses2": Client("openai_responses.py", RESPONSES, environment=None),
    "responses3": Client("openai_responses.py", RESPONSES),
    "anthropic": Client("anthropic_messages.py", ANTHROPIC),
    "ollama": Client("ollama_api.py", OLLAMA),
    "langchain-openai": Client("langchain_chat.py", LANGCHAIN, ("langchain-openai",)),
    "langchain-ollama": Client("langchain_chat.py", LANGCHAIN, ("langchain-ollama",)),
    "litellm": Client("litellm_chat.py", LITELLM, environment="clients-litellm"),
    "agents": Client("agents_run.py", AGENTS),
    "npm-openai": Client("openai_chat.mjs", NPM_OPENAI),
    "npm-anthropic": Client("anthropic_messages.mjs", NPM_ANTHROPIC),
    "npm-ollama": Client("ollama_api.mjs", NPM_OLLAMA),
}


def fits(backend: str, scenario: str) -> bool:
    """What is scripted needs a script; Anthropic's API knows less than OpenAI's: chats only."""
    if backend == "ring":
        return scenario not in SCRIPTED
    return backend == "cloud" or scenario in CHAT or scenario.partition("_")[0] in CHAT


CASES = [
    pytest.param(*(client, backend, scenario), id=f"{client}-{backend}-{scenario}")
    for client, it in CLIENTS.items()
    for backend in it.backends
    for scenario in it.scenarios
    if fits(backend, scenario)
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("clients")) as made:
        yield made


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Program]]:
    """Those that are running, by the client's name: importing some packages takes seconds."""
    running: dict[str, Program] = {}
    yield running
    for program in running.values():
        program.stop()


def started(name: str, programs: dict[str, Program], folder: Path) -> Program:
    if name not in programs:
        programs[name] = Program(CLIENTS[name].command(), folder / "log.txt")
    return programs[name]


@pytest.mark.parametrize(("client", "backend", "scenario"), CASES)
def test_client(
    client: str, backend: str, scenario: str, stage: Stage, programs: dict[str, Program], tmp_path: Path
) -> None:
    """The client's program reports what the contract says."""
    program = started(client, programs, tmp_path)
    behind = stage.backends[backend]
    if behind.cloud is not None and scenario in SCRIPTED:
        behind.cloud.queue.append(SCRIPTED[scenario])
    if behind.cloud is not None and scenario in LEAVES:
        behind.cloud.queue.append(ENDLESS)
    vectors = scenario == "embeddings" and behind.cloud is not None  # a provider has models of their own for them
    left = stage.left()
    facts = program.run(scenario, stage.node.api, "org/vectors" if vectors else behind.model)
    if behind.cloud is not None:
        behind.cloud.queue.clear()
    if scenario in LEAVES:
        wait_until(lambda: stage.left() == left + 1 and has_stopped(stage, behind), 30)
    check_of(scenario)(facts, behind)


def has_stopped(stage: Stage, backend: Backend) -> bool:
    """Whether nothing is being generated any more for a client that has left."""
    if backend.cloud is not None:
        return backend.cloud.requests[-1].outcome == "disconnected"
    return stage.generations() == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_program(client: str, programs: dict[str, Program], tmp_path: Path) -> None:
    """A client's program has the scenarios that the table above says, none of them for nothing."""
    assert started(client, programs, tmp_path).scenarios == set(CLIENTS[client].scenarios)
