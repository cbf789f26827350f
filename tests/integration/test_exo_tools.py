"""exo's own benchmark and tool-call evaluation, as they ask, against real nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import exo_node.models
from tests.integration.exo_tools import Scenario, Tool
from tests.integration.harness import NodeProcess, nodes
from tests.standin_hub import Hub
from tests.standin_hub import serve as serve_hub
from tests.standins import serve, standin

KEY = "sk-planted-exo-tools-0123456789"
REPO = "org/Tiny-Chat"
DEMO = Path(exo_node.models.__file__).parent / "demo"
CONFIG = """\
model_list:
  - model_name: fast
    litellm_params: {model: openai/gpt-4o-mini, api_key: os.environ/PLANTED_KEY, api_base: "@URL@/v1"}
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node with a hub that has the demo's files under another name, and with a provider."""
    folder = tmp_path_factory.mktemp("exo-tools")
    hub, provider = Hub({REPO: {path.name: path.read_bytes() for path in DEMO.iterdir()}}), standin("openai", key=KEY)
    with serve_hub(hub), serve(provider):
        config = folder / "config.yaml"
        config.write_text(CONFIG.replace("@URL@", provider.url))
        unset = {name: "" for name in os.environ if name.startswith(("HF_", "HUGGING"))}
        env = {**unset, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "PLANTED_KEY": KEY}
        arguments = ["--discovery-module", "none", "--litellm-config", str(config)]
        with nodes(folder / "home", arguments, env=env) as (one,):
            yield one


def test_benchmark_of_a_model_from_the_hub(node: NodeProcess) -> None:
    """Added, previewed, downloaded, placed, measured, deleted: every answer has exactly the tokens asked for.

    Once added it is found by its short name too.
    """
    rows = Tool(node).bench(REPO, [(12, 40), (30, 5)], add=True)
    assert Tool(node).resolve("tiny-chat") == ("Tiny-Chat", REPO)
    assert [(row["prompt_tokens"], row["generation_tokens"]) for row in rows] == [(12, 40), (30, 5)]
    for row in rows:
        assert row["prompt_tps"] > 0
        assert row["generation_tps"] > 0
        assert row["peak_memory_usage"]["inBytes"] > 10_000_000
        assert row["text"]
    assert node.request("GET", "/v1/instances")[1]["data"] == []


def test_benchmark_across_two_nodes(tmp_path: Path) -> None:
    """Previews of two nodes are placed on both, and the peer's files count as downloaded."""
    with nodes(tmp_path, ["--models-dir", str(DEMO.parent)], ["--models-dir", str(DEMO.parent)]) as (first, _):
        rows = Tool(first).bench("demo", [(12, 6)], min_nodes=2)
        assert [(row["nodes"], row["generation_tokens"]) for row in rows] == [(2, 6)]


def test_tool_call_evaluation(node: NodeProcess) -> None:
    """The evaluation's instance is placed and deleted; its three dialects call a provider's tools in both turns."""
    scenarios = [Scenario("weather", "How is the weather in Oslo?", '{"temperature": "4C"}')]
    found = Tool(node).evaluate("demo", scenarios, chat_model="fast")
    assert found == [("weather", api, True) for api in ("openai", "claude", "responses")]


def test_tool_call_evaluation_of_a_local_model(node: NodeProcess) -> None:
    """The same chats go to the placed model itself; whether it calls is its own choice, the shapes are not."""
    scenarios = [Scenario("talk", "What is exo?", "{}")]
    assert len(Tool(node).evaluate("demo", scenarios)) == 3
