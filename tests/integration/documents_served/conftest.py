"""One set of stand-ins, daemons and a Redis for all tests of this folder."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.document_nodes import CONFIGS, Cloud, Node
from tests.standins import serve


@pytest.fixture(scope="package")
def standins() -> Iterator[Cloud]:
    cloud = Cloud()
    with serve(*cloud.all.values(), cloud.services):
        yield cloud


@pytest.fixture
def cloud(standins: Cloud) -> Cloud:
    standins.clear()
    return standins


@pytest.fixture(scope="package")
def started(standins: Cloud, redis_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Node]]:
    """Every daemon of this folder, started together: they are up when the first one is needed."""
    folder = tmp_path_factory.mktemp("documents")
    callbacks_file = folder / "callbacks.json"
    callbacks_file.write_text('{"callbacks": ["langfuse", "helicone"]}')
    proxy = standins["litellm_proxy"].url
    nodes: dict[str, Node] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str, config: str, *arguments: str, tables: bool = False, **env: str) -> None:
            nodes[name] = Node(folder / name, config, standins, *arguments, env=env, tables=tables)
            stack.callback(nodes[name].process.stop)

        start("exo", "000-exo.json", "--litellm-config", str(callbacks_file))
        start("switching", "001-config.yaml")
        start(
            "muxer",
            "001-custom-models.json",
            *("--env-file", str(CONFIGS / "001-upstream.env")),
            tables=True,
            LITELLM_BASE_URL=proxy,
            CORP_LLM_URL=f"{standins['openai2'].url}/v1",
            CORP_LLM_KEY="corp-key",
            **dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OLLAMA_BASE_URL"), ""),
        )
        start(
            "jaf",
            "003-jaf.yaml",
            *("--env-file", str(CONFIGS / "003-jaf.env")),
            LITELLM_URL=proxy,
            REDIS_HOST="127.0.0.1",
            REDIS_PORT=str(redis_port),
        )
        yield nodes


# -- document 003: JAF


@pytest.fixture(scope="package")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A redis-server of this folder's own; without the program a port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    program = shutil.which("redis-server")
    if program is None:
        yield port
        return
    folder = str(tmp_path_factory.mktemp("redis"))
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder)
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as process:
        yield port
        process.terminate()
