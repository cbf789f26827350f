"""One daemon through Ollama's API: the bundled model in the ring, a stand-in provider, and a stand-in hub."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import exo_node.models
from tests.integration.harness import ROOT, NodeProcess, nodes, wait_until
from tests.standin_hub import Hub
from tests.standin_hub import serve as serve_hub
from tests.standins import Script, Standin, answer_to, serve, standin

pytest.importorskip("huggingface_hub")
KEY = "sk-planted-ollama-0123456789"
REPO = "org/Tiny-Chat"
DEMO = Path(exo_node.models.__file__).parent / "demo"
HELLO: Any = [{"role": "user", "content": "Hello there"}]
ANSWER = answer_to("Hello there")
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CONFIG = """\
model_list:
  - {model_name: fast, litellm_params: {model: openai/gpt-4o-mini, api_key: os.environ/PLANTED, api_base: @/v1}}
  - {model_name: vectors, litellm_params: {model: openai/text-embedding-3, api_key: os.environ/PLANTED, api_base: @/v1}}
equivalents: "off"
"""


@dataclass
class Stage:
    node: NodeProcess
    provider: Standin = field(default_factory=lambda: standin("openai", key=KEY))

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str, list[Any]]:
        """Status, media type, and the lines of JSON that came."""
        connection = http.client.HTTPConnection(urlsplit(self.node.api).netloc, timeout=60)
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        lines = [json.loads(line) for line in answer.read().splitlines() if line]
        connection.close()
        return answer.status, answer.headers.get_content_type(), lines

    def post(self, path: str, **body: Any) -> Any:
        """The answer, which is one object."""
        status, _, lines = self.ask("POST", f"/api/{path}", {"stream": False, **body})
        assert (status, len(lines)) == (200, 1), lines
        return lines[0]

    def listed(self) -> set[str]:
        """The names in both lists, which are the same."""
        names = [one["name"] for one in self.ask("GET", "/api/tags")[2][0]["models"]]
        assert names == [one["id"] for one in self.ask("GET", "/v1/models")[2][0]["data"]]
        return set(names)

    def running(self) -> list[Any]:
        found: list[Any] = self.ask("GET", "/api/ps")[2][0]["models"]
        return found


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("ollama")
    provider = standin("openai", key=KEY)
    hub = Hub({REPO: {path.name: path.read_bytes() for path in DEMO.iterdir()}})
    unset = {name: "" for name in os.environ if name.startswith(("HF_", "HUGGING"))}
    with serve(provider), serve_hub(hub):
        config = folder / "config.yaml"
        config.write_text(CONFIG.replace("@", provider.url))
        env = {**unset, "PLANTED": KEY, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf")}
        with nodes(folder / "home", ["--discovery-module", "none", "--litellm-config", str(config)], env=env) as (
            node,
        ):
            yield Stage(node, provider)


@pytest.mark.parametrize("prefix", ["", "/ollama"])
def test_chat_with_the_ring(stage: Stage, prefix: str) -> None:
    """Lines by default, the same text as one object, and times that are true to each other."""
    asked = {"model": "demo:latest", "messages": HELLO, "options": {"num_predict": 8, "temperature": 0, "num_ctx": 512}}
    status, kind, lines = stage.ask("POST", f"{prefix}/api/chat", asked)
    assert (status, kind, lines[-1]["done_reason"]) == (200, "application/x-ndjson", "length")
    text = "".join(line["message"]["content"] for line in lines)
    _, kind, (whole,) = stage.ask("POST", f"{prefix}/api/chat", {**asked, "stream": False})
    assert (kind, whole["message"]["content"]) == ("application/json", text)
    for last in (lines[-1], whole):
        assert last["eval_count"] == 8
        parts = last["load_duration"] + last["prompt_eval_duration"] + last["eval_duration"]
        assert 0 < parts <= last["total_duration"]


def test_generate_with_the_ring(stage: Stage) -> None:
    """A prompt through the template and one as it stands; tokens with their log-probabilities."""
    options = {"num_predict": 4, "temperature": 0}
    asked = stage.post("generate", model="demo", prompt="Hello there", options=options)
    chatted = stage.post("chat", model="demo", messages=HELLO, options=options)
    assert asked["response"] == chatted["message"]["content"]
    raw = stage.post("generate", model="demo", prompt="Once upon", raw=True, options=options, logprobs=True)
    assert "".join(one["token"] for one in raw["logprobs"]) == raw["response"] != asked["response"]


def test_a_schema_with_the_ring(stage: Stage) -> None:
    """`format` binds the answer."""
    schema = {"type": "object", "properties": {"size": {"enum": ["S", "M"]}}, "required": ["size"],
              "additionalProperties": False}  # fmt: skip
    answer = stage.post("chat", model="demo", messages=HELLO, format=schema, options={"num_predict": 60})
    assert json.loads(answer["message"]["content"])["size"] in ("S", "M")


def test_load_and_unload(stage: Stage) -> None:
    """An empty request loads, `keep_alive` 0 unloads, at once or after an answer; a time is told by ps."""
    assert stage.post("generate", model="demo", keep_alive="10m")["done_reason"] == "load"
    (row,) = stage.running()
    assert (row["model"], row["size"] > 0, row["expires_at"][:2]) == ("demo", True, "20")
    assert stage.post("generate", model="demo", keep_alive=0)["done_reason"] == "unload"
    assert stage.running() == []
    answer = stage.post("chat", model="demo", messages=HELLO, options={"num_predict": 2}, keep_alive=0)
    assert answer["load_duration"] > 0
    wait_until(lambda: stage.running() == [], 20, lambda: str(stage.running()))


def test_a_providers_tools(stage: Stage) -> None:
    """A call comes as an object; its answer goes back under the id that the provider's API wants."""
    asked: list[Any] = [{"role": "user", "content": "Please call the tool"}]
    stage.provider.queue.append(Script(tool_calls=(("add", {"a": 1}),)))
    _, _, lines = stage.ask("POST", "/api/chat", {"model": "fast", "messages": asked, "tools": [TOOL]})
    (message,) = [line["message"] for line in lines if line["message"].get("tool_calls")]
    (call,) = message["tool_calls"]
    assert call["function"]["arguments"] == {"a": 1}
    bare = {"role": "assistant", "content": "", "tool_calls": [{"function": call["function"]}]}
    result = {"role": "tool", "tool_name": "add", "content": "2"}
    stage.post("chat", model="fast", messages=[*asked, bare, result], tools=[TOOL])
    sent = stage.provider.requests[-1].body["messages"]
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"]
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}


def test_a_providers_answer(stage: Stage) -> None:
    """Its text and counts; vectors too; a stream that breaks ends with an error's line."""
    answer = stage.post("chat", model="fast", messages=HELLO, format="json", think=None)
    assert answer["prompt_eval_count"] > 0
    assert answer_to("Hello there") in json.loads(answer["message"]["content"])["answer"]
    assert len(stage.post("embed", model="vectors", input=["a", "b"])["embeddings"]) == 2
    stage.provider.queue.append(Script(reset_after=3))
    status, _, lines = stage.ask("POST", "/api/chat", {"model": "fast", "messages": HELLO})
    assert (status, list(lines[-1])) == (200, ["error"])


def test_a_whole_answer_that_breaks_off(stage: Stage) -> None:
    """Nothing of it was seen: it is asked for again, tool calls and all, and no whole answer is half."""
    call = {"model": "fast", "messages": HELLO, "tools": [TOOL]}
    for script in (Script(reset_after=3), Script(eof_after=1)):
        stage.provider.queue.append(script)
        answer = stage.post("chat", **call, options={"num_predict": 50})
        assert answer["message"]["tool_calls"][0]["function"]["name"] == "add"
        assert answer["total_duration"] >= answer["eval_duration"] > 1000
        stage.provider.queue.append(script)
        assert stage.post("generate", model="fast", prompt="Hello there", raw=True)["response"] == ANSWER
    stage.provider.queue += [Script(reset_after=3)] * 2
    status, _, lines = stage.ask("POST", "/api/chat", {**call, "stream": False})
    assert (status >= 500, list(lines[0])) == (True, ["error"])
    stage.provider.queue.clear()


def test_pull_and_delete(stage: Stage) -> None:
    """A model comes from the hub with its way told, is listed, shown, asked, and deleted."""
    status, _, lines = stage.ask("POST", "/api/pull", {"model": REPO})
    assert (status, lines[0]["status"], lines[-1]["status"]) == (200, "pulling manifest", "success")
    at = [line for line in lines if "total" in line][-1]
    assert at["completed"] == at["total"] > 0
    names = [one["name"] for one in stage.ask("GET", "/api/tags")[2][0]["models"]]
    assert names == ["demo", REPO, "fast", "vectors"]
    info = stage.ask("POST", "/api/show", {"model": f"{REPO}:latest"})[2][0]
    assert (info["capabilities"], info["model_info"]["llama.context_length"]) == (
        ["completion", "tools", "embedding"],
        1024,
    )
    assert stage.post("chat", model=REPO, messages=HELLO, options={"num_predict": 2})["eval_count"] == 2
    assert stage.ask("DELETE", "/api/delete", {"model": REPO})[0] == 200
    assert REPO not in {one["name"] for one in stage.ask("GET", "/api/tags")[2][0]["models"]}
    assert stage.ask("DELETE", "/api/delete", {"model": REPO})[0] == 404
    assert stage.ask("DELETE", "/api/delete", {"model": "demo"})[0] == 400


def test_errors(stage: Stage) -> None:
    """All in Ollama's shape with their status."""
    for path, body, wanted in (
        ("chat", {"model": "nobody", "messages": HELLO}, 404),
        ("chat", {"messages": HELLO}, 400),
        ("chat", {"model": "demo", "messages": HELLO, "think": True}, 400),
        ("generate", {"model": "demo", "prompt": "x", "options": {"mirostat": 2}}, 400),
        ("copy", {"source": "nobody", "destination": "x"}, 404),
        ("copy", {"source": "demo"}, 400),
        ("copy", {"source": "fast", "destination": "x"}, 400),
        ("copy", {"source": "demo", "destination": "fast"}, 409),
        ("copy", {"source": "demo", "destination": "openai/x"}, 409),
        ("copy", {"source": "demo", "destination": 'x"\ny = "demo'}, 400),
    ):
        status, kind, (told,) = stage.ask("POST", f"/api/{path}", body)
        assert (status, kind, list(told)) == (wanted, "application/json", ["error"])


def test_copies(tmp_path: Path) -> None:
    """Copies of the demo and of an own folder are models in every dialect and for `exo run`, at once and after a
    restart; many at once are all kept, with what people wrote; deleting one leaves the model."""
    home, models = tmp_path / "home", tmp_path / "models"
    shutil.copytree(DEMO, models / "own 'model\"")
    (home / "model_aliases.toml").parent.mkdir()
    (home / "model_aliases.toml").write_text("# mine\n")
    flags = ["--discovery-module", "none", "--models-dir", str(models), "--offline"]
    many = [f"many-{i}" for i in range(30)]
    with nodes(home, flags) as (node,):
        on = Stage(node)
        for source, name in (
            ("demo", "gpt-3.5-turbo"),
            ("own 'model\"", "me/Mine:1b"),
            ("me/mine:1b", "second:latest"),
        ):
            status, _, told = on.ask("POST", "/ollama/api/copy", {"source": source, "destination": name})
            assert (status, told) == (200, [])
        copy_of = {name: {"source": "second", "destination": name} for name in many}
        with ThreadPoolExecutor(15) as pool:
            answers = list(pool.map(lambda body: on.ask("POST", "/api/copy", body)[0], copy_of.values()))
        assert answers == [200] * len(many)
        speak(on, "gpt-3.5-turbo")
    with nodes(home, flags) as (node,):
        on = Stage(node)
        names = {"demo", "own 'model\"", "gpt-3.5-turbo", "me/Mine:1b", "second", *many}
        assert on.listed() == names
        speak(on, "me/Mine:1b")
        run = [sys.executable, "-m", "exo_node", "run", "second", "--prompt", "Hello", "--max-tokens", "2"]
        subprocess.run(run, cwd=ROOT, env={**os.environ, "EXO_HOME": str(home)}, check=True, timeout=60)
        for name in ("GPT-3.5-turbo", *many):
            assert on.ask("DELETE", "/api/delete", {"model": name})[0] == 200
        assert on.ask("DELETE", "/api/delete", {"model": "gpt-3.5-turbo"})[0] == 404
        assert on.listed() == names - {"gpt-3.5-turbo", *many}
        assert [one["model"] for one in on.running()] == ["own 'model\""]
    assert (home / "model_aliases.toml").read_text().startswith("# mine\n")


def speak(on: Stage, model: str) -> None:
    """Every dialect answers under that name."""
    for path, more in (
        ("/api/chat", {"messages": HELLO, "stream": False, "options": {"num_predict": 2}}),
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 2}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 2}),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 16}),
    ):
        status, _, told = on.ask("POST", path, {"model": model, **more})
        assert status == 200, told
