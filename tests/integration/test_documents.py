"""The five documents' own examples against real daemons and stand-in providers, with the files of configs/documents."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from exo_node import sdk
from exo_node.routing.configuration.secrets import SecretStore
from exo_node.sdk import callbacks
from tests.integration import documents
from tests.integration.harness import ROOT, NodeProcess, wait_until
from tests.standins import PROVIDERS, Received, Script, Standin, answer_to, refused_url, serve, standin
from tests.standins.server import Whole

CONFIGS = ROOT / "configs" / "documents"
HELLO: Any = [{"role": "user", "content": "Hello!"}]
MASTER = "your-master-key-here"  # document 001's
pytestmark = pytest.mark.skipif(not documents.FOLDER.is_dir(), reason="the source documents are not here")


class Services(Standin):
    """Langfuse and Helicone."""

    provider = "services"

    def routes(self) -> list[Any]:
        def taken(received: Received, script: Script) -> Whole:
            return Whole({"successes": [], "errors": []})

        return [self.ask("POST", "/api/public/ingestion", taken), self.ask("POST", "/custom/v1/log", taken)]

    def told(self) -> tuple[list[Any], list[Any]]:
        """(Langfuse's generations, Helicone's logs)."""
        batches = [one.body for one in self.requests if one.path == "/api/public/ingestion"]
        logs = [one.body for one in self.requests if one.path == "/custom/v1/log"]
        return [event for batch in batches for event in batch["batch"]], logs


class Cloud:
    """Every provider that the documents name, on loopback."""

    def __init__(self) -> None:
        names = [*PROVIDERS, "azure2", "openai2"]
        self.all = {name: standin(name.rstrip("2")) for name in names}
        self.all["litellm_proxy"].models = (
            "gpt-4", "gpt-3.5-turbo", "gpt-4o", "claude-3-haiku", "custom-llama-7b", "mixtral-8x7b", "llama-2-70b",
        )  # fmt: skip
        self.services = Services()

    def __getitem__(self, name: str) -> Standin:
        return self.all[name]

    def clear(self) -> None:
        for one in (*self.all.values(), self.services):
            one.requests.clear()
            one.queue.clear()
            one.script = Script()
            one.by_model.clear()

    def asked(self) -> dict[str, int]:
        """How many requests each provider has got."""
        return {name: len(one.requests) for name, one in self.all.items() if one.requests}

    def environment(self) -> dict[str, str]:
        """Variables that lead every provider here; the configurations' README names them."""
        url = {name: one.url for name, one in self.all.items()}
        return {
            "OPENAI_API_KEY": "sk-openai",
            "OPENAI_BASE_URL": f"{url['openai']}/v1",
            "ANTHROPIC_API_KEY": "sk-ant",
            "ANTHROPIC_API_BASE": url["anthropic"],
            "GEMINI_API_KEY": "g-key",
            "GEMINI_API_BASE": f"{url['gemini']}/v1beta",
            "GROQ_API_KEY": "gsk-groq",
            "GROQ_API_BASE": f"{url['openai2']}/v1",
            "COHERE_API_KEY": "co-key",
            "COHERE_API_BASE": url["cohere"],
            "AZURE_API_KEY": "az-key",
            "AZURE_API_BASE": url["azure"],
            "AZURE_EASTUS_BASE": url["azure"],
            "AZURE_WESTEUROPE_BASE": url["azure2"],
            "OLLAMA_BASE_URL": url["ollama"],
            "LANGFUSE_PUBLIC_KEY": "pk-lf",
            "LANGFUSE_SECRET_KEY": "sk-lf",
            "LANGFUSE_HOST": self.services.url,
            "HELICONE_API_KEY": "sk-helicone",
            "HELICONE_API_BASE": self.services.url,
        }


@pytest.fixture(scope="module")
def standins() -> Iterator[Cloud]:
    cloud = Cloud()
    with serve(*cloud.all.values(), cloud.services):
        yield cloud


@pytest.fixture
def cloud(standins: Cloud) -> Cloud:
    standins.clear()
    return standins


class Node:
    """A daemon whose configuration can be changed while it runs."""

    def __init__(
        self, home: Path, config: str, cloud: Cloud, *arguments: str, env: Mapping[str, str], tables: bool = False
    ) -> None:
        self.config = home / "config"
        self._now = ""
        self._extra: tuple[Any, ...] = ()
        home.mkdir(parents=True)
        secrets = SecretStore(home, {})
        for name in ("azure_key", "openai_key", "anthropic_key", "azure_eastus_key", "azure_westeurope_key"):
            secrets.set(name, f"planted-{name}")
        self._write(config)
        if tables:
            shutil.copy(CONFIGS.parent / "models.toml", home)
        if "--env-file" not in arguments:
            arguments = (*arguments, "--env-file", str(CONFIGS.parent / ".env.litellm.example"))
        self.process = NodeProcess(
            home,
            *("--discovery-module", "none", "--litellm-config", str(self.config), *arguments),
            env={**cloud.environment(), **env},
        )

    def _write(self, name: str) -> None:
        shutil.copy(CONFIGS / name, self.config)
        self._now = name

    def use(self, name: str) -> None:
        """Another file of configs/documents from now on. Breakers start closed: deployments have new names or none."""
        if name != self._now:
            self._write(name)
            status, told = self.request("POST", "/v1/config/reload")
            assert status == 200, told

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, told, _ = self.headers(method, path, body)
        return status, told

    def headers(self, method: str, path: str, body: Any = None) -> tuple[int, Any, Mapping[str, str]]:
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", "Authorization": f"Bearer {MASTER}"}
        request = urllib.request.Request(self.process.api + path, data=data, method=method, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null"), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null"), dict(error.headers)

    def chat(self, model: str | None = None, **fields: Any) -> tuple[Any, Mapping[str, str]]:
        """A chat that must succeed: (answer, headers)."""
        body = {"messages": HELLO, **({"model": model} if model else {}), **fields}
        status, told, headers = self.headers("POST", "/v1/chat/completions", body)
        assert status == 200, f"{told}\n{self.process.log()[-3000:]}"
        return told, headers

    def sdk(self, patch: pytest.MonkeyPatch) -> None:
        """Point the SDK's environment here."""
        patch.setenv("EXO_API_BASE", self.process.api)
        patch.setenv("EXO_API_KEY", MASTER)


@pytest.fixture(scope="module")
def started(standins: Cloud, redis_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Node]]:
    """Every daemon of this module, started together: they are up when the first one is needed."""
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


def ready(started: Mapping[str, Node], name: str, config: str | None = None) -> Node:
    node = started[name]
    if not node.process.api:
        node.process.wait_ready()
    if config is not None:
        node.use(config)
    return node


# -- document 000: exo


def test_000_a_local_model_runs_on_the_ring(started: dict[str, Node], cloud: Cloud) -> None:
    """The first curl call of the document, with the model that is on this machine: no provider hears of it."""
    node = ready(started, "exo")
    body = next(one for one in documents.bodies(0) if one.get("model") == "llama-3.2-1b")
    status, told, headers = node.headers("POST", "/v1/chat/completions", {**body, "model": "demo", "max_tokens": 5})
    assert status == 200, told
    assert headers["x-exo-backend"] == "ring:demo"
    assert cloud.asked() == {}


def test_000_a_cloud_name_goes_out(started: dict[str, Node], cloud: Cloud) -> None:
    """The second curl call of the document: gpt-4 by the configured deployment, with its key."""
    node = ready(started, "exo")
    body = next(one for one in documents.bodies(0) if one.get("model") == "gpt-4" and "tools" not in one)
    status, told, headers = node.headers("POST", "/v1/chat/completions", body)
    assert (status, told["choices"][0]["message"]["content"]) == (200, answer_to("Hello!"))
    assert headers["x-exo-provider"] == "openai"
    assert cloud["openai"].requests[-1].headers["authorization"] == "Bearer sk-openai"


def test_000_every_deployment_of_the_file_and_the_default_model(started: dict[str, Node], cloud: Cloud) -> None:
    """gpt-4 and Ollama go straight, Claude through LiteLLM, each in its own wire format; no model: the default one."""
    node = ready(started, "exo")
    for model in ("gpt-4", "claude-3-opus", "ollama-llama3", None):
        assert node.chat(model)[0]["choices"][0]["message"]["content"] == answer_to("Hello!")
    assert cloud.asked() == {"openai": 2, "anthropic": 1, "ollama": 1}
    assert cloud["anthropic"].requests[-1].headers["x-api-key"] == "sk-ant"
    assert [one.model for one in cloud["openai"].requests] == ["gpt-4", "gpt-3.5-turbo"]


def test_000_an_unknown_name_is_asked_outside_first(started: dict[str, Node], cloud: Cloud) -> None:
    """An upstream proxy is asked for a name that nobody here knows; when it says no too, 404 with what there is."""
    node = ready(started, "muxer")
    cloud["litellm_proxy"].script = Script(status=404, message="no such model")
    status, refused = node.request("POST", "/v1/chat/completions", {"model": "nobody-has-this-1b", "messages": HELLO})
    assert [one.model for one in cloud["litellm_proxy"].requests] == ["nobody-has-this-1b"]
    assert (status, refused["error"]["code"]) == (404, "model_not_found")
    assert "no such model" in refused["error"]["message"] and "custom-llama-7b" in refused["error"]["message"]


def test_000_external_fails_and_the_ring_answers(started: dict[str, Node], cloud: Cloud) -> None:
    """The fallback to a local model, asked for by the request."""
    node = ready(started, "exo")
    cloud["ollama"].script = Script(status=503)
    _, headers = node.chat("ollama-llama3", max_tokens=3, exo={"fallbacks": ["demo"]})
    assert headers["x-exo-backend"] == "ring:demo"


def test_000_the_tools_example(started: dict[str, Node], cloud: Cloud) -> None:
    """The document's tools body as it stands: the call comes back in OpenAI's shape, plain and streamed."""
    node = ready(started, "exo")
    body = next(one for one in documents.bodies(0) if "tools" in one)
    status, told = node.request("POST", "/v1/chat/completions", body)
    call = told["choices"][0]["message"]["tool_calls"][0]
    assert (status, call["function"]["name"]) == (200, "get_weather")
    assert json.loads(call["function"]["arguments"]) == {"location": "Paris"}
    client = node.process.client()
    chunks = list(client.chat.completions.create(**body, stream=True))
    pieces = [one for c in chunks if c.choices for one in c.choices[0].delta.tool_calls or ()]
    assert json.loads("".join(one.function.arguments or "" for one in pieces)) == {"location": "Paris"}
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "tool_calls"


def test_000_the_documents_own_configuration_is_ours(started: dict[str, Node]) -> None:
    """configs/documents has the document's file; only the address of Ollama can be redirected."""
    theirs = next(one for one in documents.bodies(0) if "model_deployments" in one)
    ours = json.loads((CONFIGS / "000-exo.json").read_text())
    ours["model_deployments"][2]["litellm_params"]["api_base"] = "http://localhost:11434"
    assert theirs == ours


# -- callbacks


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("model", ["demo", "gpt-4", "claude-3-opus"], ids=["ring", "passthrough", "sidecar"])
def test_callbacks_of_the_node(started: dict[str, Node], cloud: Cloud, model: str, stream: bool) -> None:
    """Langfuse and Helicone get one event of each request, whoever served it."""
    node = ready(started, "exo")
    client = node.process.client()
    user = f"user of {model}, {stream}"  # the last events of the test before may still be on their way

    def told() -> tuple[list[Any], list[Any]]:
        generations, logs = cloud.services.told()
        mine = [one for one in generations if one["body"]["metadata"]["user"] == user]
        return mine, [one for one in logs if one["providerRequest"]["meta"].get("Helicone-User-Id") == user]

    answer: Any = client.chat.completions.create(model=model, messages=HELLO, max_tokens=4, stream=stream, user=user)
    text = "".join(c.choices[0].delta.content or "" for c in answer if c.choices) if stream else None
    text = text if stream else answer.choices[0].message.content
    wait_until(lambda: all(told()), 10, node.process.log)
    # Events come in order: a second one of the first call would be here too.
    client.chat.completions.create(model="ollama-llama3", messages=HELLO, max_tokens=4, user=user)
    wait_until(lambda: all(len(one) >= 2 for one in told()), 10, node.process.log)
    generations, logs = told()
    assert (len(generations), len(logs)) == (2, 2)
    assert generations[0]["body"]["output"] == text
    assert generations[0]["body"]["usage"]["output"] > 0
    assert logs[0]["providerResponse"]["json"]["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize("model", ["demo", "gpt-4", "claude-3-opus"], ids=["ring", "passthrough", "sidecar"])
def test_callbacks_of_the_sdk(
    started: dict[str, Node], cloud: Cloud, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`success_callback` at the caller's end: one event each, besides what the node tells."""
    ready(started, "exo").sdk(monkeypatch)
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    heard: list[Any] = []
    monkeypatch.setattr(sdk, "success_callback", ["langfuse", "helicone", heard.append])
    sdk.get_litellm_service().chat_completion(HELLO, model, max_tokens=4)
    callbacks.flush()
    ours = [one for one in cloud.services.told()[0] if not one["body"]["metadata"]["backend"]]
    assert len(ours) == len(heard) == 1
    assert ours[0]["body"]["output"] == heard[0].choices[0].message.content


# -- document 001: ModelMuxer


def snippets(number: int, wanted: int, addresses: Mapping[str, str], needs: tuple[int, ...] = (), **names: Any) -> Any:
    found = documents.blocks(number, "python")
    return documents.run([found[i] for i in (*needs, wanted)], addresses, **names)


PROXY = "http://localhost:4000"


def test_001_custom_models(cloud: Cloud) -> None:
    """The provider with its own prices and limits."""
    names, _ = snippets(1, 0, {PROXY: cloud["litellm_proxy"].url})
    assert names["provider"].calculate_cost(1000, 500, "gpt-4") == pytest.approx(0.06)


def test_001_basic_chat(cloud: Cloud) -> None:
    """The answer, and what it cost."""
    _, printed = snippets(1, 1, {PROXY: cloud["litellm_proxy"].url})
    assert f"Response: {answer_to('What is the capital of France?')}" in printed
    assert "Cost: $0.0000" in printed
    assert cloud["litellm_proxy"].requests[-1].headers["authorization"] == "Bearer your-api-key"


def test_001_streaming(cloud: Cloud) -> None:
    """The text in pieces."""
    _, printed = snippets(1, 2, {PROXY: cloud["litellm_proxy"].url}, (1,))
    assert answer_to("Write a short story about AI") in printed
    assert printed.endswith("Streaming complete!\n")


def test_001_cost_comparison(cloud: Cloud) -> None:
    """Every supported model has a cost, and one is the cheapest."""
    names, printed = snippets(1, 3, {PROXY: cloud["litellm_proxy"].url}, (1,))
    assert "gpt-4o: $0.007500" in printed
    assert "Most cost-effective model: " in printed
    assert "text-embedding" not in printed
    assert names


def test_001_models_at_run_time(cloud: Cloud) -> None:
    """add_custom_model and get_model_info."""
    names, printed = snippets(1, 4, {PROXY: cloud["litellm_proxy"].url}, (0,))
    assert "'context_window': 4096" in printed
    assert "custom-llama-7b" in names["provider"].get_supported_models()


def test_001_health(cloud: Cloud) -> None:
    """A proxy that answers is healthy and lists its models; one that is not there is not."""
    _, printed = snippets(1, 5, {PROXY: cloud["litellm_proxy"].url}, (1,))
    assert "Healthy" in printed and "'gpt-3.5-turbo'" in printed
    _, printed = snippets(1, 5, {PROXY: refused_url()}, (), asyncio=asyncio, LiteLLMProvider=sdk.LiteLLMProvider)
    assert "Unhealthy" in printed and "Failed to get models: no exo node answers" in printed


def test_001_heuristic_and_cost_aware_routing(cloud: Cloud) -> None:
    """select_model says what and why; route_request keeps to max_cost and to what the proxy lists."""
    addresses = {PROXY: cloud["litellm_proxy"].url}
    _, printed = snippets(1, 6, addresses, (0, 1))
    assert "Selected: litellm/" in printed and "hard code task" in printed
    names, _ = snippets(1, 7, addresses, (0, 1, 6))
    assert names["response"].choices[0].message.content == answer_to("Simple question")
    assert names["response"].model == "claude-3-haiku"  # the cheapest of those that the proxy lists and has a price for


def test_001_the_rest_of_its_snippets(cloud: Cloud) -> None:
    """Debug logging and the monitor, which only has to be defined (it never ends)."""
    snippets(1, 8, {PROXY: cloud["litellm_proxy"].url}, (1,))
    names, _ = snippets(1, 9, {PROXY: cloud["litellm_proxy"].url}, (1,))
    assert callable(names["monitor_litellm"])


def test_001_a_node_over_a_litellm_proxy(started: dict[str, Node], cloud: Cloud) -> None:
    """LITELLM_BASE_URL and its key from .env, custom models with their prices and limits, hybrid and cascade."""
    node = ready(started, "muxer")
    told, headers = node.chat("custom-llama-7b")
    assert told["choices"][0]["message"]["content"] == answer_to("Hello!")
    request = cloud["litellm_proxy"].requests[-1]
    assert (request.model, request.headers["authorization"]) == ("custom-llama-7b", "Bearer your-litellm-key")
    used = told["usage"]
    cost = (used["prompt_tokens"] * 0.0001 + used["completion_tokens"] * 0.0002) / 1000
    assert float(headers["x-exo-cost"]) == pytest.approx(cost, rel=0.01)
    assert node.request("GET", "/v1/router/stats")[1]["strategy"] == "cascade"


def test_001_own_tables(started: dict[str, Node], cloud: Cloud) -> None:
    """configs/models.toml in the exo home folder: a provider of one's own, with its price."""
    told, headers = ready(started, "muxer").chat("corp/house-70b")
    request = cloud["openai2"].requests[-1]
    assert (request.model, request.headers["authorization"]) == ("house-70b", "Bearer corp-key")
    used = told["usage"]
    assert float(headers["x-exo-cost"]) == pytest.approx(0.2e-6 * used["total_tokens"], rel=0.01)


def test_001_the_yaml_of_the_document(started: dict[str, Node], cloud: Cloud) -> None:
    """Every group of config.yaml answers in its provider's own wire format; its master key is this node's."""
    node = ready(started, "switching", "001-config.yaml")
    groups = ("gpt-4", "gpt-3.5-turbo", "claude-3-sonnet", "claude-3-haiku", "gemini-pro", "llama2-70b-chat")
    for model in groups:
        assert node.chat(model)[0]["choices"][0]["message"]["content"] == answer_to("Hello!")
    assert cloud.asked() == {"openai": 2, "anthropic": 2, "gemini": 1, "openai2": 1}
    status, _ = node.process.request("GET", "/v1/models")
    assert status == 401


def test_001_the_docker_setup(started: dict[str, Node], cloud: Cloud) -> None:
    """Keys that stand in the file."""
    node = ready(started, "switching", "001-docker.yaml")
    for model in ("gpt-4o", "claude-3-5-sonnet"):
        node.chat(model)
    assert cloud["openai"].requests[-1].headers["authorization"] == "Bearer your-openai-key-here"
    assert cloud["anthropic"].requests[-1].headers["x-api-key"] == "your-anthropic-key-here"


# -- document 002: LAS

LAS = "http://localhost:7777"


@pytest.fixture
def las(started: dict[str, Node], cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node with the document's settings but for its cache, and the SDK's way to it."""
    node = ready(started, "switching", "002-las.json")
    node.request("POST", "/v1/config", {"enable_caching": False})
    node.sdk(monkeypatch)
    yield node
    for name in ("default_provider", "default_model", "ollama_base_url", "enable_caching", "enable_cost_tracking"):
        node.request("POST", "/v1/config", {name: None})


def las_bodies(node: Node, path: str, wanted: str) -> list[tuple[int, Any]]:
    """The document's body with the key `wanted`, at the document's own path and at ours."""
    body = next(one for one in documents.bodies(2) if wanted in one)
    return [node.request("POST", prefix + path, body) for prefix in ("/api/v1/litellm", "/v1")]


def test_002_chat(las: Node, cloud: Cloud) -> None:
    """The chat body and the streaming body."""
    for status, told in las_bodies(las, "/chat/completions", "temperature"):
        assert (status, told["choices"][0]["message"]["content"]) == (200, answer_to("Hello!"))
    streaming = next(one for one in documents.bodies(2) if one.get("stream"))
    client = las.process.client(default_headers={"Authorization": f"Bearer {MASTER}"})
    text = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(**streaming) if c.choices)
    assert text == answer_to("Tell me a story")
    assert cloud.asked() == {"ollama": 3}


def test_002_drop_in_for_openai(las: Node) -> None:
    """The OpenAI SDK at the document's base_url."""
    code = documents.blocks(2, "python")[0]
    names, _ = documents.run([code], {LAS: las.process.api, '"any"': f'"{MASTER}"'})
    assert names["response"].choices[0].message.content == answer_to("Hello!")


def test_002_models_and_providers(las: Node) -> None:
    """Models of one provider; every provider of the document's table with features and key."""
    status, told = las.request("GET", "/api/v1/litellm/models?provider=openai")
    assert status == 200
    assert {one["owned_by"] for one in told["data"]} == {"openai"}
    rows = {row["id"]: row for row in las.request("GET", "/api/v1/litellm/providers")[1]["data"]}
    named = {
        "ollama", "openai", "anthropic", "gemini", "groq", "openrouter", "huggingface", "together_ai", "deepseek",
        "azure", "bedrock", "hosted_vllm",
    }  # fmt: skip
    assert named <= rows.keys()
    assert (rows["openai"]["key"], rows["deepseek"]["key"], rows["ollama"]["key"]) == ("present", "missing", "keyless")
    assert {"vision", "tools", "tts", "stt"} <= set(rows["openai"]["features"])


def test_002_vision_embeddings_cost(las: Node, cloud: Cloud) -> None:
    """The bodies of the document's other routes."""
    for status, told in las_bodies(las, "/vision", "image_url"):
        assert (status, told["choices"][0]["message"]["content"]) == (200, answer_to("What's in this image?"))
    for status, told in las_bodies(las, "/embeddings", "input"):
        assert (status, len(told["data"][0]["embedding"])) == (200, 8)
    for status, told in las_bodies(las, "/cost/estimate", "input_tokens"):
        assert (status, told["total_cost"]) == (200, pytest.approx(0.0075))
    assert cloud.asked() == {"openai": 4}


def las_snippet(wanted: int, needs: tuple[int, ...] = (), **names: Any) -> tuple[dict[str, Any], str]:
    found: tuple[dict[str, Any], str] = snippets(2, wanted, {}, needs, **names)
    return found


def service() -> sdk.LiteLLMService:
    """A service of a test's own: what one test sets is not another's."""
    return sdk.LiteLLMService()


def test_002_sdk_completion(las: Node, cloud: Cloud) -> None:
    """get_litellm_service, sync and async."""
    names, printed = las_snippet(1)
    assert printed == answer_to("Hello!") + "\n"
    assert names["response"].choices[0].message.content == answer_to("Hello!")
    assert cloud.asked() == {"ollama": 1, "openai": 1}


def test_002_sdk_streaming(las: Node) -> None:
    """The text comes chunk by chunk."""
    _, printed = las_snippet(2, svc=service())
    assert answer_to("Tell me a story") in printed


def test_002_sdk_tools(las: Node) -> None:
    """The tool runs by itself and the model hears its result."""
    names, printed = las_snippet(3, svc=service())
    assert printed == answer_to("Weather in Paris: Sunny, 72°F") + "\n"
    assert names["result"]["tool_calls"][0]["arguments"] == '{"location": "Paris"}'


def test_002_sdk_vision_and_embeddings(las: Node) -> None:
    """vision_completion and create_embedding."""
    names, _ = las_snippet(4, svc=service())
    assert names["response"].choices[0].message.content == answer_to("Describe this image in detail")
    names, _ = las_snippet(5, svc=service())
    assert [len(one) for one in names["embeddings"]] == [8, 8]


def test_002_provider_factory(las: Node, cloud: Cloud) -> None:
    """ProviderFactory.create with the provider in the model's name."""
    names, _ = las_snippet(6)
    assert names["response"].choices[0].message.content == answer_to("Hello!")
    names["provider"].chat_completion(HELLO)
    assert cloud.asked() == {"openai": 1, "ollama": 1}


def test_002_service_configuration(las: Node, cloud: Cloud) -> None:
    """`_setup_litellm` tells the node; `update_config` changes the defaults of the calls that follow."""
    found = documents.blocks(2, "python")
    names, _ = documents.run([found[7], found[8]], {"http://localhost:11434": cloud["ollama"].url})
    svc = names["svc"]
    for _ in range(2):
        assert svc.chat_completion(messages=HELLO).choices[0].message.content == answer_to("Hello!")
    assert cloud.asked() == {"openai": 1}  # enable_caching=True: the second one came from the cache
    assert cloud["openai"].requests[0].body["temperature"] == 0.5


def test_002_error_handling(las: Node, cloud: Cloud) -> None:
    """Every exception that the document names is raised for its cause, as LiteLLM's class where that is installed."""
    svc = sdk.LiteLLMService(sdk.LiteLLMConfig(default_model="openai/ft:of-nobody-else"))
    causes = {
        429: "RateLimitError",
        401: "AuthenticationError",
        503: "ServiceUnavailableError",
        400: "InvalidRequestError",
    }
    for status, name in causes.items():
        cloud["openai"].script = Script(status=status, message="scripted", retry_after="0")
        with pytest.raises(getattr(sdk, name)):
            svc.chat_completion(messages=HELLO)
    las_snippet(9, svc=svc, messages=HELLO)  # catches it
    svc.close()


def test_002_langchain(las: Node) -> None:
    """The document's chain; and a pipe with a streamed and an async answer."""
    pytest.importorskip("langchain_core")
    names, _ = las_snippet(10)
    assert names["result"] == answer_to("Tell me about AI")
    chain = names["prompt"] | names["llm"]
    assert "".join(str(one.content) for one in chain.stream({"topic": "AI"})) == answer_to("Tell me about AI")
    assert asyncio.run(chain.ainvoke({"topic": "AI"})).usage_metadata["output_tokens"] > 0


def test_002_callbacks(las: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """`success_callback = [function]` hears of model and usage."""
    monkeypatch.setattr(sdk, "success_callback", [])
    printed: list[str] = []
    names, _ = las_snippet(11)
    names["log_success"].__globals__["print"] = printed.append
    service().chat_completion(HELLO, "openai/gpt-4o")
    assert len(printed) == 1 and printed[0].startswith("Model: gpt-4o, Tokens: {")


# -- document 003: JAF


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A redis-server of this module's own; without the program a port where nothing listens."""
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


def test_003_its_calls(started: dict[str, Node], cloud: Cloud) -> None:
    """health, models and the chat of its curl calls, all without /v1."""
    node = ready(started, "jaf")
    body = next(one for one in documents.bodies(3) if one.get("model") == "gpt-3.5-turbo")
    assert node.request("GET", "/health")[0] == 200
    assert {"gpt-4", "azure-gpt-4"} <= {one["id"] for one in node.request("GET", "/models")[1]["data"]}
    status, told = node.request("POST", "/chat/completions", body)
    assert (status, told["choices"][0]["message"]["content"]) == (200, answer_to("Hello"))


def test_003_use_litellm_sends_cloud_names_to_the_proxy(started: dict[str, Node], cloud: Cloud) -> None:
    """USE_LITELLM and LITELLM_URL of its .env: gpt-3.5-turbo, mixtral and llama-2-70b go to the proxy with its key."""
    node = ready(started, "jaf")
    for model in ("gpt-3.5-turbo", "mixtral-8x7b", "llama-2-70b"):
        node.chat(model, messages=[{"role": "user", "content": f"Hello {model}"}])
    asked = cloud["litellm_proxy"].requests
    assert [one.model for one in asked] == ["gpt-3.5-turbo", "mixtral-8x7b", "llama-2-70b"]
    assert asked[0].headers["authorization"] == "Bearer your-master-key"


def test_003_the_cheapest_of_an_alias(started: dict[str, Node], cloud: Cloud) -> None:
    """gpt-4 is gpt-4, azure-gpt-4 or claude-3-opus, whichever is cheapest: Claude at $15/$75 against $30/$60 a million
    where the answer is short."""
    node = ready(started, "jaf")
    ask = {"messages": [{"role": "user", "content": "words " * 2000}], "max_tokens": 4}
    _, headers = node.chat("gpt-4", **ask)
    assert headers["x-exo-provider"] == "anthropic"


def test_003_cache_in_redis(started: dict[str, Node], cloud: Cloud) -> None:
    """The same question again is answered by the cache."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    node = ready(started, "jaf")
    ask = {"messages": [{"role": "user", "content": "Cache this"}], "temperature": 0}
    first, _ = node.chat("mixtral-8x7b", **ask)
    second, headers = node.chat("mixtral-8x7b", **ask)
    assert headers["x-exo-cached"] == "true"
    assert first["choices"] == second["choices"]
    assert cloud.asked() == {"litellm_proxy": 1}


def test_003_fallbacks(started: dict[str, Node], cloud: Cloud) -> None:
    """When everything that gpt-4 stands for fails, gemini-ultra answers."""
    node = ready(started, "jaf")
    for name in ("openai", "azure", "anthropic", "litellm_proxy"):
        cloud[name].script = Script(status=503)
    told, headers = node.chat("gpt-4", messages=[{"role": "user", "content": "Hello once more"}])
    assert headers["x-exo-provider"] == "gemini"
    assert told["choices"][0]["message"]["content"] == answer_to("Hello once more")


# -- document 004: AI Services


def ai_snippet(node: Node, wanted: int, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    """One of its snippets; each but the first two leaves the import to those."""
    node.sdk(monkeypatch)
    found: tuple[dict[str, Any], str] = snippets(4, wanted, {}, get_ai_provider=sdk.get_ai_provider)
    return found


def test_004_router_mode_chat(started: dict[str, Node], cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record's alias, its secrets in place of the placeholders, its defaults where the request is silent."""
    node = ready(started, "switching", "004-router-mode.json")
    for _ in range(6):
        names, _ = ai_snippet(node, 0, monkeypatch)
        assert names["response"].choices[0].message.content == answer_to("Hello!")
    asked = cloud.asked()
    assert sum(asked.values()) == 6 and asked.keys() <= {"azure", "openai"}
    node.chat()  # metadata_info.defaults.model
    for one in (*cloud["azure"].requests, *cloud["openai"].requests):
        key = one.headers.get("api-key") or one.headers.get("authorization")
        assert key in ("your-azure-key", "Bearer your-openai-key")
        assert one.body["top_p"] == 1.0
    assert {one.query["api-version"] for one in cloud["azure"].requests} <= {"2024-02-01"}


def test_004_unknown_record(started: dict[str, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that the node does not have is refused by name."""
    ready(started, "switching", "004-router-mode.json").sdk(monkeypatch)
    with pytest.raises(sdk.NotFoundError, match="no provider 'litellm-gpt5'; it has: litellm-gpt4"):
        asyncio.run(sdk.get_ai_provider("litellm-gpt5"))


def test_004_batch(started: dict[str, Node], cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three at once, in order."""
    node = ready(started, "switching", "004-router-mode.json")
    names, _ = ai_snippet(node, 1, monkeypatch)
    answers = [one.choices[0].message.content for one in names["responses"]]
    assert answers == [answer_to(f"Question {i}") for i in (1, 2, 3)]


def test_004_embeddings_with_failover(started: dict[str, Node], cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure is down: the next deployment embeds; so it does the other way round."""
    node = ready(started, "switching", "004-router-mode.json")
    for down, up in (("azure", "openai"), ("openai", "azure")):
        cloud.clear()
        cloud[down].script = Script(status=503)
        names, _ = ai_snippet(node, 2, monkeypatch)
        assert len(names["embedding"]) == 8
        assert cloud[up].requests[-1].path.endswith("/embeddings")


def test_004_router_stats(started: dict[str, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """The document's three keys."""
    node = ready(started, "switching", "004-router-mode.json")
    names, _ = ai_snippet(node, 3, monkeypatch)
    stats = names["stats"]
    assert {"azure/gpt-4o-deployment", "openai/gpt-4o"} <= set(stats["healthy_deployments"])
    assert "gpt-4o" in stats["model_list"]
    assert stats["routing_strategy"] == "simple-shuffle"


def test_004_rerank_by_the_records_model(
    started: dict[str, Node], cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rerank_model` of the record where the call names none."""
    node = ready(started, "switching", "004-router-mode.json")
    node.sdk(monkeypatch)

    async def rerank() -> Any:
        provider = await sdk.get_ai_provider("litellm-gpt4")
        return await provider.rerank("red apple", ["a green car", "a red apple"])

    assert asyncio.run(rerank()).results[0].index == 1
    assert cloud.asked() == {"cohere": 1}


def test_004_direct_mode(started: dict[str, Node], cloud: Cloud) -> None:
    """The model record answers under both of its names; its own cache; its fallbacks when it fails."""
    node = ready(started, "switching", "004-direct-mode.json")
    node.chat("gpt-4o-prod")
    assert cloud["azure"].requests[-1].headers["api-key"] == "your-azure-key"
    for cached in ("false", "true"):
        assert node.chat("gpt-4o")[1].get("x-exo-cached") == cached
    cloud["azure"].script = Script(status=503)
    _, headers = node.chat("gpt-4o", messages=[{"role": "user", "content": "Hello, fallback"}])
    assert (headers["x-exo-provider"], cloud["openai"].requests[-1].model) == ("openai", "gpt-4o-mini")


def test_004_multi_region(started: dict[str, Node], cloud: Cloud) -> None:
    """Two regions share the load; when one is down the other takes all of it."""
    node = ready(started, "switching", "004-multi-region.json")
    for _ in range(12):
        node.chat("gpt-4o")
    assert cloud.asked().keys() == {"azure", "azure2"}
    assert cloud["azure2"].requests[0].headers["api-key"] == "planted-azure_westeurope_key"
    cloud.clear()
    cloud["azure"].script = Script(status=503)
    for _ in range(4):
        node.chat("gpt-4o")
    assert len([one for one in cloud["azure2"].requests if one.outcome == "answered"]) == 4


def test_004_multi_provider(started: dict[str, Node], cloud: Cloud) -> None:
    """Azure and OpenAI are down: Anthropic answers under the same name."""
    node = ready(started, "switching", "004-multi-provider.json")
    cloud["azure"].script = cloud["openai"].script = Script(status=503)
    told, headers = node.chat("gpt-4o")
    assert (headers["x-exo-provider"], told["choices"][0]["message"]["content"]) == ("anthropic", answer_to("Hello!"))
    assert cloud["anthropic"].requests[-1].headers["x-api-key"] == "planted-anthropic_key"


# -- nothing secret anywhere


def test_no_key_in_a_log_or_a_list(started: dict[str, Node]) -> None:
    """What the daemons printed, list and count names no key of any provider."""
    for name in ("exo", "switching", "jaf"):
        node = ready(started, name)
        seen = [node.process.log()]
        seen += [
            json.dumps(node.request("GET", path)[1])
            for path in ("/v1/router/stats", "/v1/deployments", "/v1/providers")
        ]
        for key in ("sk-openai", "sk-ant", "az-key", "planted-", "your-azure-key", "sk-lf", "sk-helicone", MASTER):
            assert not any(key in text for text in seen), key
