"""No planted secret comes out in the clear: in no log, answer, header, page, file or process's arguments."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.harness import ROOT, NodeProcess, wait_until
from tests.integration.redis_server import Server, needs_redis
from tests.integration.test_limits import add_key, running
from tests.standins import Script, Standin, serve, standin

HELLO: Any = [{"role": "user", "content": "Hello there"}]
# Where each was planted -> the secret.
PLANTED = {
    "environment": "sk-plantedenv-0123456789abcdef",
    "env-file": "sk-planteddotenv-0123456789abcdef",
    "config": "plantedconfig0123456789abcdef",  # in no provider's shape
    "secrets-file": "plantedstore-0123456789abcdef",
    "master": "plantedmaster-0123456789abcdef",
    "redis": "planted-redis-password",
    "langfuse": "plantedlangfuse-0123456789abcdef",
    "added": "plantedadded-0123456789abcdef",
    "header": "plantedheader-0123456789abcdef",
    "reloaded": "plantedreloaded-0123456789abcdef",
}
CONFIG = """\
model_list:
  - model_name: by-env
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/PLANTED_ENV, api_base: "@OPENAI@/v1"}
  - model_name: by-file
    litellm_params: {model: openai/gpt-4o, api_key: "${PLANTED_FILE}", api_base: "@OPENAI@/v1"}
  - model_name: in-config
    litellm_params:
      model: openai/gpt-4o
      api_key: @CONFIG@
      api_base: @OPENAI@/v1
      extra_headers: {X-Planted: @HEADER@}
  - model_name: in-store
    litellm_params: {model: anthropic/claude-sonnet-4-5, api_key: "{planted}", api_base: "@ANTHROPIC@"}
general_settings: {master_key: @MASTER@}
redis: {host: 127.0.0.1, port: @PORT@, password: @REDIS@}
cache: {type: sqlite}
callbacks: [langfuse]
equivalents: "off"
"""


@dataclass
class Heard:
    """Everything that came out, by where it came out."""

    texts: dict[str, list[str]] = field(default_factory=dict)

    def add(self, where: str, text: str | bytes) -> None:
        self.texts.setdefault(where, []).append(text if isinstance(text, str) else text.decode("latin-1"))

    def leaks(self, secrets: dict[str, str]) -> list[tuple[str, str]]:
        found = {(w, n) for w, texts in self.texts.items() for n, s in secrets.items() if any(s in t for t in texts)}
        return sorted(found)


@dataclass
class Stage:
    node: NodeProcess
    openai: Standin
    anthropic: Standin
    config: Path
    key: str
    heard: Heard

    def ask(self, method: str, path: str, body: Any = None, key: str = PLANTED["master"]) -> int:
        """The status; what was answered is heard, headers too."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        request = urllib.request.Request(self.node.api + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, told, raw = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            status, told, raw = error.code, error.headers, error.read()
        self.heard.add(f"body of {method} {path}", raw)
        self.heard.add(f"headers of {method} {path}", str(told))
        return int(status)

    def chat(self, model: str, **more: Any) -> int:
        return self.ask("POST", "/v1/chat/completions", {"model": model, "messages": HELLO, **more})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("secrets")
    home = folder / "home"
    with ExitStack() as stack:
        server = Server(folder)
        stack.enter_context(running(server))
        providers = standin("openai"), standin("anthropic")
        stack.enter_context(serve(*providers))
        text = CONFIG
        for name, value in (
            ("OPENAI", providers[0].url), ("ANTHROPIC", providers[1].url), ("PORT", str(server.port)),
            *((name.upper(), PLANTED[name]) for name in ("config", "header", "master", "redis")),
        ):  # fmt: skip
            text = text.replace(f"@{name}@", value)
        config = folder / "config.yaml"
        config.write_text(text)
        (folder / "planted.env").write_text(f"PLANTED_FILE={PLANTED['env-file']}\n")
        subprocess.run(
            [sys.executable, "-m", "exo_node", "secrets", "set", "planted"],
            input=PLANTED["secrets-file"] + "\n", text=True, check=True, cwd=ROOT,
            env={**os.environ, "EXO_HOME": str(home)}, capture_output=True,
        )  # fmt: skip
        key = add_key(home, "--name", "client")
        env = {
            "PLANTED_ENV": PLANTED["environment"], "LANGFUSE_PUBLIC_KEY": "pk-lf-1",
            "LANGFUSE_SECRET_KEY": PLANTED["langfuse"], "LANGFUSE_HOST": providers[0].url, "DEBUG": "9",
        }  # fmt: skip
        arguments = ["--discovery-module", "none", "--litellm-config", str(config)]
        node = NodeProcess(home, *arguments, "--env-file", str(folder / "planted.env"), "-vv", env=env)
        stack.callback(node.stop)
        node.wait_ready()
        yield Stage(node, *providers, config, key, Heard())


@needs_redis
def test_nothing_planted_comes_out(stage: Stage) -> None:
    """After success and every kind of failure, with everything logged, a search finds no secret anywhere."""
    models = ["by-env", "by-file", "in-config"]
    if importlib.util.find_spec("litellm") is not None:
        models.append("in-store")
    for model in models:
        for stream in (False, True):
            assert stage.chat(model, stream=stream, max_tokens=50) == 200, model
    used = {one.headers["authorization"] for one in stage.openai.requests if "chat" in one.path}
    assert used == {f"Bearer {PLANTED[name]}" for name in ("environment", "env-file", "config")}
    echo = f"Incorrect API key provided: {' '.join(PLANTED.values())}. Find yours at ..."
    for script in (
        Script(status=401, message=echo), Script(status=400, message=echo), Script(status=500, message=echo),
        Script(status=500, body=f"<html>{echo}</html>".encode()), Script(error_after=2, message=echo),
        Script(malformed_after=1), Script(status=429, message=echo, retry_after="1"),
    ):  # fmt: skip
        stage.openai.script = stage.anthropic.script = script
        for model in models:
            for stream in (False, True):
                stage.chat(model, stream=stream, max_tokens=50, user=f"{script.status}")
    stage.openai.script = stage.anthropic.script = Script()
    record = {"id": "late", "model_name": "late", "litellm_params": {"model": "openai/x", "api_key": PLANTED["added"],
              "api_base": f"{stage.openai.url}/v1"}}  # fmt: skip
    assert stage.ask("POST", "/v1/deployments", record) == 200
    assert stage.chat("late") == 200
    wrong = {**record, "litellm_params": {**record["litellm_params"], "rpm": "many"}}  # type: ignore[dict-item]
    assert stage.ask("POST", "/v1/deployments", wrong) == 400
    for provider in ("openai", "anthropic"):
        stage.ask("POST", f"/v1/providers/{provider}/check")
    # Secrets beside what is wrong, in broken YAML, under an unknown key, of a wrong type.
    text = stage.config.read_text()
    for broken in (
        text.replace("{type: sqlite}", "{type: nowhere}").replace(PLANTED["config"], PLANTED["reloaded"]),
        text + f"\nmaster_key: [{PLANTED['reloaded']}\n",
        text + f"\nmaster_kee: {PLANTED['reloaded']}\n",
        text.replace(PLANTED["config"], f"[{PLANTED['reloaded']}]"),
    ):
        stage.config.write_text(broken)
        stage.ask("POST", "/v1/config/reload")
        stage.node.process.send_signal(signal.SIGHUP)
    stage.config.write_text(text)
    wait_until(lambda: stage.node.log().count("the configuration stays as it was") >= 1, 10, stage.node.log)
    assert stage.ask("GET", "/v1/models", key="sk-wrong-key") == 401
    assert stage.ask("GET", "/v1/models", key=stage.key) == 200
    assert stage.ask("POST", "/v1/config", {"temperature": 1}, key=stage.key) == 403
    for path in (
        "/metrics", "/v1/topology", "/v1/router/stats", "/v1/deployments", "/v1/models", "/v1/providers",
        "/v1/instances", "/health",
    ):  # fmt: skip
        stage.ask("GET", path)
    stage.ask("POST", "/v1/route/explain", {"model": "in-config", "messages": HELLO})
    for command in (["status"], ["apikey", "list"], ["secrets", "list"]):
        done = subprocess.run(
            [sys.executable, "-m", "exo_node", *command], cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, "EXO_HOME": str(stage.node.home), "EXO_API_KEY": PLANTED["master"]},
        )  # fmt: skip
        stage.heard.add(f"exo {' '.join(command)}", done.stdout + done.stderr)
    daemon = psutil.Process(stage.node.process.pid)
    for child in daemon.children(recursive=True):
        stage.heard.add("arguments of a child", " ".join(child.cmdline()))
        if "sidecar" in " ".join(child.cmdline()):
            given = {name for name, value in PLANTED.items() if name != "environment"}
            environ = Path(f"/proc/{child.pid}/environ").read_bytes().decode("latin-1")
            assert [name for name in given if PLANTED[name] in environ] == []
            stage.heard.add("environment of the sidecar", environ)
    stage.heard.add("arguments of the daemon", " ".join(daemon.cmdline()))
    stage.node.stop()  # everything is written
    stage.heard.add("log", stage.node.log())
    for file in stage.node.home.rglob("*"):
        if file.is_file() and not file.name.startswith("log-"):
            stage.heard.add(f"file {file.name}", file.read_bytes())
    assert len(stage.heard.texts) > 30
    leaks = stage.heard.leaks({**PLANTED, "api key": stage.key})
    for where, name in leaks:
        secret = PLANTED.get(name, stage.key)
        for text in stage.heard.texts[where]:
            if secret in text:
                at = text.index(secret)
                print(where, name, text[max(0, at - 200) : at + 100])
    assert leaks == []
