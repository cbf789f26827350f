"""What the clients call: a ring of two nodes and a stand-in cloud behind one address; and the clients' programs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.integration.harness import NodeProcess, wait_until
from tests.standins import Standin, answer_to, serve, standin

HERE = Path(__file__).resolve().parent
INPUTS: dict[str, Any] = json.loads((HERE / "inputs.json").read_text())
KEY = "sk-exo-clients-0123456789"
CLOUD_KEY = "sk-planted-clients-0123456789"
ANSWER_S = 90.0  # an engine compiles its kernels at its first request

# The name has a slash: clients percent-encode it in paths. One deployment without retries, fallbacks or cooldown: what
# the provider does is what the client sees.
CONFIG = """\
model_list:
  - model_name: org/cloud
    litellm_params: {model: openai/gpt-4o-mini, api_key: os.environ/PLANTED_KEY, api_base: "@OPENAI@/v1"}
    model_info: {id: cloud-1}
  - model_name: org/claude
    litellm_params: {model: anthropic/claude-sonnet-4-5, api_key: os.environ/PLANTED_KEY, api_base: "@ANTHROPIC@"}
    model_info: {id: claude-1}
  - model_name: org/vectors
    litellm_params: {model: openai/text-embedding-3-small, api_key: os.environ/PLANTED_KEY, api_base: "@OPENAI@/v1"}
router_settings: {num_retries: 0, cooldown_time: 0}
equivalents: "off"
continuation: "off"
"""


@dataclass(frozen=True)
class Backend:
    """One of those that answer: its model's name at the node, what it says to the question, its stand-in if any."""

    name: str
    model: str
    answer: str
    cloud: Standin | None = None


@dataclass
class Stage:
    node: NodeProcess
    backends: dict[str, Backend]
    instance: str = ""

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """A plain call with the node's key: the parsed answer."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.node.api + path, data, headers, method=method)
        with urllib.request.urlopen(asked, timeout=ANSWER_S) as answer:
            return json.loads(answer.read())

    def generations(self) -> int:
        """Running and waiting ones of the ring; slots tell nothing, finished sequences stay in them."""
        stats = self.request("GET", f"/v1/instances/{self.instance}/stats")
        return sum(int(stage["running"] + stage["waiting"]) for stage in stats["stages"])

    def left(self) -> int:
        """Calls whose client went away before their end, by the node's own log."""
        calls = self.request("GET", "/v1/spend?limit=10000")["data"]
        return sum(call["error_code"] == "cancelled" for call in calls)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """Two nodes with one instance of the bundled model over both, and two stand-in providers."""
    openai, anthropic = standin("openai", key=CLOUD_KEY), standin("anthropic", key=CLOUD_KEY)
    with contextlib.ExitStack() as stack:
        stack.enter_context(serve(openai, anthropic))
        config = folder / "config.yaml"
        config.write_text(CONFIG.replace("@OPENAI@", openai.url).replace("@ANTHROPIC@", anthropic.url))
        started: list[NodeProcess] = []
        stack.callback(lambda: [node.stop() for node in started])
        for more in (("--litellm-config", str(config)), ()):
            node = NodeProcess(folder / "home", "--api-key", KEY, *more, env={"PLANTED_KEY": CLOUD_KEY})
            started.append(node)
            node.wait_ready()
        said = answer_to(INPUTS["question"])
        ring = (
            "Exo turns your own computers into one cluster that runs AI models. A model that is too big for one "
            "machine is split by layers over several nodes, and you use it through an OpenAI-compatible API."
        )
        backends = (
            Backend("ring", "demo", ring),
            Backend("cloud", "org/cloud", said, openai),
            Backend("claude", "org/claude", said, anthropic),
        )
        stage = Stage(started[0], {one.name: one for one in backends})
        wait_until(lambda: len(stage.request("GET", "/v1/topology")["nodes"]) == 2, 15)
        over = {"model": "demo", "nodes": [node.node_id for node in started]}
        stage.instance = stage.request("POST", "/v1/instances", over)["id"]
        try:
            yield stage
        except BaseException:
            print(*(node.log()[-6000:] for node in started), sep="\n---\n")
            raise


class Program:
    """A client's program in its own environment (python/common.py says what is spoken with it)."""

    def __init__(self, command: list[str], log: Path) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ANTHROPIC_"))}
        self._log = log
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            cwd=HERE,
            env={**env, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        )
        hello = self._read()
        self.package = str(hello["package"])
        self.scenarios = frozenset(hello["scenarios"])

    def _read(self) -> Any:
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise AssertionError(f"the program ended with {self._process.wait()}:\n{self._log.read_text()[-4000:]}")
        return json.loads(line)

    def run(self, scenario: str, url: str, model: str, key: str = KEY) -> Any:
        """The scenario's facts. Raises `AssertionError` with the client's traceback."""
        to = _pipe(self._process.stdin)
        to.write(json.dumps({"scenario": scenario, "url": url, "model": model, "key": key}) + "\n")
        to.flush()
        said = self._read()
        if "error" in said:
            raise AssertionError(f"{self.package}, {scenario}, {model}:\n{said['error']}")
        return said["facts"]

    def stop(self) -> None:
        _pipe(self._process.stdin).close()
        self._process.wait(ANSWER_S)
        _pipe(self._process.stdout).close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
