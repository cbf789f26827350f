"""One daemon with external models, as its users meet it: the official SDK, real HTTP, stand-in providers, LiteLLM."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.harness import NodeProcess, nodes, wait_until
from tests.standins import Script, Standin, answer_to, serve, standin

HELLO: Any = [{"role": "user", "content": "Hello there"}]
ANSWER = answer_to("Hello there")
KEY = "sk-planted-external-0123456789"
LONG = Script(chunks=40, gap_s=0.03)
needs_litellm = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None, reason="exo-node[litellm] is not installed"
)

CONFIG = """\
model_list:
  - model_name: fast
    litellm_params:
      model: openai/gpt-4o-mini
      api_key: os.environ/PLANTED_KEY
      api_base: @OPENAI@/v1
      input_cost_per_token: 0.000001
      output_cost_per_token: 0.000002
    model_info: {id: fast-1}
  - model_name: claude
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      api_key: os.environ/PLANTED_KEY
      api_base: @ANTHROPIC@
    model_info: {id: claude-1}
  - model_name: vectors
    litellm_params:
      model: openai/text-embedding-3-small
      api_key: os.environ/PLANTED_KEY
      api_base: @OPENAI@/v1
    model_info: {id: vectors-1}
router_settings:
  cooldown_time: 0.2
fallbacks:
  fast: [demo]
  claude: [fast]
  demo: [fast]
equivalents: "off"
continuation: any
"""


@dataclass
class Stage:
    """A node, the providers behind it, and its configuration file."""

    node: NodeProcess
    openai: Standin
    anthropic: Standin
    config: Path

    @property
    def text(self) -> str:
        return CONFIG.replace("@OPENAI@", self.openai.url).replace("@ANTHROPIC@", self.anthropic.url)

    def chat(self, model: str, **more: Any) -> Any:
        """The raw response: `.headers`, `.parse()`."""
        asked: Any = {"model": model, "messages": HELLO, **more}
        return self.node.client().chat.completions.with_raw_response.create(**asked)

    def backend(self, model: str) -> str:
        return str(self.chat(model, max_tokens=5).headers["x-exo-backend"])

    def deployments(self) -> dict[str, Any]:
        return {row["id"]: row for row in self.node.request("GET", "/v1/deployments")[1]["data"]}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("external")
    providers = standin("openai", key=KEY), standin("anthropic", key=KEY)
    with serve(*providers):
        config = folder / "config.yaml"
        made = Stage(NodeProcess.__new__(NodeProcess), *providers, config)
        config.write_text(made.text)
        arguments = ["--discovery-module", "none", "--litellm-config", str(config), "-v"]
        with nodes(folder / "home", arguments, env={"PLANTED_KEY": KEY}) as (node,):
            made.node = node
            yield made


@pytest.fixture(autouse=True)
def quiet(stage: Stage) -> Iterator[None]:
    """Each test begins and ends with well providers and the file's configuration."""
    yield
    for one in (stage.openai, stage.anthropic):
        one.queue.clear()
        one.script = Script()
    stage.config.write_text(stage.text)


def test_chat_whole_and_streamed(stage: Stage) -> None:
    """A pass-through deployment answers as its provider does, and the headers say who served it at what cost."""
    raw = stage.chat("fast")
    answer = raw.parse()
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (ANSWER, "stop")
    assert raw.headers["x-exo-backend"] == "fast-1"
    assert raw.headers["x-exo-provider"] == "openai"
    assert raw.headers["x-exo-model"] == "gpt-4o-mini"
    assert raw.headers["x-exo-attempts"].startswith("fast-1")
    assert float(raw.headers["x-exo-cost"]) == pytest.approx(
        answer.usage.prompt_tokens * 1e-6 + answer.usage.completion_tokens * 2e-6
    )
    chunks = list(stage.chat("fast", stream=True, stream_options={"include_usage": True}).parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert chunks[-1].usage == answer.usage
    assert stage.openai.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    assert stage.openai.requests[-1].body["model"] == "gpt-4o-mini"


def test_pictures_go_where_they_are_seen(stage: Stage) -> None:
    """The ring's model reads texts only: its fallback gets the picture (test_tools: without one it is a 400)."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "Hello there"}, picture]}]
    raw = stage.chat("demo", messages=asked)
    assert (raw.headers["x-exo-backend"], raw.parse().choices[0].message.content) == ("fast-1", ANSWER)
    assert stage.openai.requests[-1].body["messages"] == asked
    assert stage.backend("demo") == "ring:demo"


def test_embeddings(stage: Stage) -> None:
    """Vectors come through, and the ring never serves them."""
    found = stage.node.client().embeddings.create(model="vectors", input=["one", "two"])
    assert [len(one.embedding) for one in found.data] == [8, 8]
    stage.openai.script = Script(status=500)
    with pytest.raises(openai.InternalServerError) as error:
        stage.node.client().embeddings.create(model="vectors", input="one")
    assert KEY not in str(error.value)


@needs_litellm
def test_the_sidecar(stage: Stage) -> None:
    """A provider with a wire format of its own is asked through LiteLLM, whole and streamed."""
    raw = stage.chat("claude", max_tokens=200)
    assert (raw.headers["x-exo-backend"], raw.parse().choices[0].message.content) == ("claude-1", ANSWER)
    chunks = list(stage.chat("claude", stream=True, max_tokens=200).parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert stage.anthropic.requests[-1].headers["x-api-key"] == KEY


@needs_litellm
def test_a_killed_worker(stage: Stage) -> None:
    """`kill -9` of the sidecar's workers in the middle of a stream: another backend finishes the answer."""
    stage.anthropic.script = LONG
    seen, finish = "", None
    killed: list[int] = []
    for chunk in stage.chat("claude", stream=True, max_tokens=200).parse():
        for choice in chunk.choices:
            seen += choice.delta.content or ""
            finish = choice.finish_reason or finish
        if not killed and len(seen.split()) >= 3:
            workers = stage.node.request("GET", "/v1/router/stats")[1]["litellm"]["workers"]
            killed = [worker["pid"] for worker in workers if worker["in_flight"]]
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
    assert killed
    assert finish in ("stop", "length")
    assert len(seen.split()) > 3
    stage.anthropic.script = Script()
    wait_until(lambda: stage.backend("claude") == "claude-1", 60)


def test_failover_to_the_ring_and_back(stage: Stage) -> None:
    """While the provider fails the demo answers; once it is well it serves again."""
    stage.openai.script = Script(status=500)
    raw = stage.chat("fast", max_tokens=5)
    assert raw.headers["x-exo-backend"] == "ring:demo"
    assert raw.parse().choices[0].message.content
    assert "fast-1" in raw.headers["x-exo-attempts"]
    chunks = list(stage.chat("fast", max_tokens=5, stream=True).parse())
    assert chunks[-1].choices[0].finish_reason
    stage.openai.script = Script()
    wait_until(lambda: stage.backend("fast") == "fast-1", 60)


def test_explained_and_counted(stage: Stage) -> None:
    """What would be done is told without doing it; what was done is in the statistics and the metrics."""
    stage.chat("fast")
    asked = len(stage.openai.requests)
    status, plan = stage.node.request("POST", "/v1/route/explain", {"model": "fast", "messages": HELLO})
    assert (status, [step["backend"] for step in plan["steps"]]) == (200, ["fast-1", "ring:demo"])
    assert len(stage.openai.requests) == asked
    stats = stage.node.request("GET", "/v1/router/stats")[1]
    assert {"fast", "claude", "vectors"} <= set(stats["model_list"])
    assert "openai/gpt-4o-mini" in stats["healthy_deployments"]
    assert stats["requests"]["requests"] >= 1
    assert any(row["backend"] == "fast-1" for row in stats["profile"])
    with urllib.request.urlopen(f"{stage.node.api}/metrics") as answer:
        text = answer.read().decode()
        assert answer.headers["Content-Type"].startswith("text/plain")
    assert any("fast-1" in line and not line.endswith(" 0.0") for line in text.splitlines() if "request" in line)


def test_providers(stage: Stage) -> None:
    """A check asks the provider for its models with the deployment's key; an unknown provider is a 404."""
    status, row = stage.node.request("POST", "/v1/providers/openai/check")
    assert (status, row["ok"], row["costs"]) == (200, True, False), row
    assert stage.openai.requests[-1].path == "/v1/models"
    stage.openai.key = "sk-another-9876543210"
    try:
        row = stage.node.request("POST", "/v1/providers/openai/check")[1]
        assert (row["ok"], "not accepted" in row["detail"]) == (False, True), row
        assert stage.deployments()["fast-1"]["usable"] is False
    finally:
        stage.openai.key = KEY
    assert stage.node.request("POST", "/v1/providers/openai/check")[1]["ok"]
    assert stage.deployments()["fast-1"]["usable"] is True
    assert stage.node.request("POST", "/v1/providers/nobody/check")[0] == 404


def test_deployments_at_run_time(stage: Stage) -> None:
    """One is added, asked, kept through a reload, and taken away; a wrong one is a 400 that names the field."""
    base = {"api_base": f"{stage.openai.url}/v1", "api_key": KEY}
    record = {"id": "late-1", "model_name": "late", "litellm_params": {"model": "openai/gpt-4o", **base}}
    status, row = stage.node.request("POST", "/v1/deployments", record)
    assert (status, row["id"], row["added_at_run_time"]) == (200, "late-1", True), row
    assert KEY not in str(row)
    assert stage.chat("late").headers["x-exo-backend"] == "late-1"
    assert stage.node.request("POST", "/v1/deployments", record)[0] == 400
    wrong = {**record, "id": "late-2", "litellm_params": {"model": "openai/gpt-4o", "rpm": "many"}}
    status, error = stage.node.request("POST", "/v1/deployments", wrong)
    assert (status, "rpm" in error["error"]["message"]) == (400, True), error
    assert stage.node.request("POST", "/v1/config/reload")[0] == 200
    assert "late-1" in stage.deployments()
    assert stage.node.request("DELETE", "/v1/deployments/late-1")[0] == 200
    assert stage.node.request("DELETE", "/v1/deployments/late-1")[0] == 404
    with pytest.raises(openai.NotFoundError):
        stage.chat("late")


def test_defaults_at_run_time(stage: Stage) -> None:
    """`POST /v1/config` fills in what requests leave open, and holds through a reload until it is taken back."""
    change = {"default_model": "fast", "temperature": 0.3, "max_tokens": 4}
    assert stage.node.request("POST", "/v1/config", change)[0] == 200
    assert stage.node.request("POST", "/v1/config/reload")[0] == 200
    status, answer = stage.node.request("POST", "/v1/chat/completions", {"messages": HELLO})
    assert (status, answer["choices"][0]["finish_reason"]) == (200, "length")
    sent = stage.openai.requests[-1].body
    assert (sent["temperature"], sent["max_tokens"]) == (0.3, 4)
    assert stage.node.request("POST", "/v1/config", dict.fromkeys(change))[1]["default_model"] is None
    stage.chat("fast")
    assert "temperature" not in stage.openai.requests[-1].body
    assert stage.node.request("POST", "/v1/config", {"temperatur": 1})[0] == 400


@pytest.mark.parametrize("how", ["signal", "api"])
def test_reload(stage: Stage, how: str) -> None:
    """Another configuration is taken while a stream runs, which ends as it began."""

    def reload() -> None:
        if how == "signal":
            stage.node.process.send_signal(signal.SIGHUP)
        else:
            assert stage.node.request("POST", "/v1/config/reload")[0] == 200

    stage.openai.queue.append(LONG)
    stream = stage.chat("fast", stream=True).parse()
    words = [next(iter(stream)).choices[0].delta.content or ""]
    stage.config.write_text(stage.text.replace("fast-1", "fast-2").replace("model_name: fast", "model_name: quick"))
    reload()
    wait_until(lambda: "fast-2" in stage.deployments(), 5)
    chunks = list(stream)
    words += [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert len("".join(words).split()) == 40
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert stage.backend("quick") == "fast-2"
    stage.config.write_text(stage.text)
    reload()
    wait_until(lambda: "fast-1" in stage.deployments(), 5)


def test_a_wrong_file_changes_nothing(stage: Stage) -> None:
    """It is refused with file and line, through the API in the answer, after SIGHUP in the log."""
    lines = stage.text.splitlines()
    at = next(number for number, line in enumerate(lines) if "api_base" in line)
    lines.insert(at, "      rpm: many")
    stage.config.write_text("\n".join(lines))
    where = f"config.yaml:{at + 1}"
    before = stage.deployments()
    status, answer = stage.node.request("POST", "/v1/config/reload")
    assert (status, where in answer["error"]["message"]) == (400, True), answer
    stage.node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: where in stage.node.log(), 5, stage.node.log)
    assert stage.deployments() == before
    assert stage.backend("fast") == "fast-1"


@contextmanager
def configured(stage: Stage, more: str) -> Iterator[None]:
    """The file with these lines more."""
    stage.config.write_text(f"{stage.text}{more}\n")
    try:
        status, answer = stage.node.request("POST", "/v1/config/reload")
        assert status == 200, answer
        yield
    finally:
        stage.config.write_text(stage.text)
        stage.node.request("POST", "/v1/config/reload")


@needs_litellm
def test_litellms_callbacks_and_prices(stage: Stage) -> None:
    """A callback of LiteLLM's own is told of calls that LiteLLM never saw; a name that it lacks is refused. Once its
    sidecar runs, its prices are known."""
    told: list[tuple[str, Any]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((self.path, json.loads(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        variables = f"{{OPENMETER_API_ENDPOINT: 'http://127.0.0.1:{server.server_port}', OPENMETER_API_KEY: k}}"
        with configured(stage, f"callbacks: [openmeter]\nenvironment_variables: {variables}"):
            stage.chat("fast", user="ann")
            wait_until(lambda: bool(told), 30, stage.node.log)
        server.shutdown()
    path, event = told[0]
    assert (path, event["subject"], event["data"]["model"]) == ("/api/v1/events", "ann", "gpt-4o-mini")
    stage.config.write_text(f"{stage.text}callbacks: [openmetre]\n")
    status, answer = stage.node.request("POST", "/v1/config/reload")
    assert (status, "did you mean openmeter?" in answer["error"]["message"]) == (400, True), answer
    dear = "deepseek/deepseek-coder"  # in LiteLLM's table, not in ours

    def source() -> Any:
        path = f"/v1/cost/estimate?model={dear}&prompt_tokens=1000&completion_tokens=10"
        return stage.node.request("GET", path)[1].get("price_source")

    wait_until(lambda: source() == "litellm", 20)


def test_an_own_check_of_a_cascade(stage: Stage) -> None:
    """`cascade_check` sends an answer that it does not like to the next backend."""
    asked: Any = {"max_tokens": 5, "extra_body": {"exo": {"strategy": "cascade"}}}
    assert "escalated" not in stage.chat("fast", **asked).headers["x-exo-attempts"]
    with configured(stage, "cascade_check: operator:is_not"):  # of the call and the answer: always true
        raw = stage.chat("fast", **asked)
    assert raw.headers["x-exo-attempts"] == "fast-1:escalated, ring:demo:ok"
    assert "escalated" not in stage.chat("fast", **asked).headers["x-exo-attempts"]


def test_a_provider_without_a_key_is_named(stage: Stage) -> None:
    """Who asks for groq without its key and is answered by another is told so."""
    fallbacks: Any = {"exo": {"fallbacks": ["fast"]}}
    raw = stage.chat("groq/llama-3.3-70b-versatile", extra_body=fallbacks)
    assert raw.headers["x-exo-backend"] == "fast-1"
    assert "groq/llama-3.3-70b-versatile: no key for Groq: set GROQ_API_KEY" in raw.headers["x-exo-reason"]


def test_kept_answers(stage: Stage) -> None:
    """With the cache on the same question is asked once; a hit replays as a stream; `no-cache` asks again."""
    stage.node.request("POST", "/v1/config", {"enable_caching": True})
    try:
        question: Any = {"messages": [{"role": "user", "content": "Keep this"}]}
        first = stage.chat("fast", **question)
        asked = len(stage.openai.requests)
        second = stage.chat("fast", **question)
        assert (first.headers["x-exo-cached"], second.headers["x-exo-cached"]) == ("false", "true")
        assert second.parse().choices[0].message.content == first.parse().choices[0].message.content
        chunks = list(stage.chat("fast", stream=True, **question).parse())
        text = "".join(c.choices[0].delta.content or "" for c in chunks)
        assert (text, chunks[-1].choices[0].finish_reason) == (answer_to("Keep this"), "stop")
        assert len(stage.openai.requests) == asked
        again = stage.chat("fast", **question, extra_headers={"Cache-Control": "no-cache"})
        assert again.headers["x-exo-cached"] == "false"
        streamed: Any = {"messages": [{"role": "user", "content": "Keep this stream"}]}
        list(stage.chat("fast", stream=True, **streamed).parse())
        assert stage.chat("fast", **streamed).headers["x-exo-cached"] == "true"
    finally:
        stage.node.request("POST", "/v1/config", {"enable_caching": None})
    assert stage.chat("fast", **question).headers["x-exo-cached"] == "false"


def test_an_unknown_model(stage: Stage) -> None:
    """A name that nobody knows is a 404 that lists what there is."""
    with pytest.raises(openai.NotFoundError) as error:
        stage.chat("nobody")
    assert "claude" in str(error.value)
