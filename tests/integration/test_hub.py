"""A model of a (stand-in) Hugging Face hub, asked for by its name: the daemon fetches it and serves it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import exo_node.models
from tests.integration.harness import NodeProcess, nodes
from tests.standin_hub import Hub, serve
from tests.tiny_models import CONFIG, write_byte_level, write_model

pytest.importorskip("huggingface_hub")
REPO = "org/Tiny-Chat"
DEMO = Path(exo_node.models.__file__).parent / "demo"
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """The bundled model's files under another name, and a repository that needs a token."""
    files = {path.name: path.read_bytes() for path in DEMO.iterdir()}
    with serve(Hub({REPO: {**files, "pytorch_model.bin": b"b"}, "org/gated": files})) as running:
        running.gated = frozenset({"org/gated"})
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("hub") / "home"
    home.mkdir()
    (home / "model_aliases.toml").write_text(f'[aliases]\ntiny-chat = "{REPO}"\n')
    return home


def start(hub: Hub, home: Path, *arguments: str) -> Any:
    unset = {name: "" for name in os.environ if name.startswith(("HF_", "HUGGING"))}
    env = {**unset, "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf")}
    return nodes(home, ["--discovery-module", "none", *arguments], env=env)


def copy(model: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def ask(node: NodeProcess, model: str) -> str:
    answer = node.client().chat.completions.create(model=model, messages=HELLO, temperature=0, max_tokens=12)
    return answer.choices[0].message.content or ""


def refusal(node: NodeProcess, model: str) -> tuple[int, str]:
    status, answer = node.request("POST", "/v1/chat/completions", {"model": model, "messages": HELLO})
    message: str = answer["error"]["message"]
    assert "\n" not in message
    return status, message


def test_a_repository_is_fetched_on_first_use_and_served(hub: Hub, home: Path) -> None:
    """By its own name, by a short name and in other letters; only what it needs is fetched, and once. Once here, it is
    listed, and `--offline` serves it without a word to the hub."""
    with start(hub, home) as (node,):
        assert REPO not in [model.id for model in node.client().models.list()]
        bundled = ask(node, "demo")
        assert ask(node, "tiny-chat") == bundled
        assert [ask(node, name) for name in (REPO, REPO.lower())] == [bundled] * 2
        fetched = [path for method, path, _ in hub.log if method == "GET" and "/cdn/" in path]
        assert fetched == [f"/cdn/{REPO}/model.safetensors"]
        assert "pytorch_model.bin" not in hub.fetched()
        card = node.client().models.retrieve(REPO)
        assert (card.id, card.owned_by) == (REPO, "org")
        assert node.client().models.retrieve("tiny-chat").id == REPO
        instances = node.topology()["instances"]
        assert sorted(one["model"] for one in instances) == sorted(["demo", REPO])
    hub.log.clear()
    with start(hub, home, "--offline") as (node,):
        assert ask(node, "tiny-chat") == bundled
        status, message = refusal(node, "llama-3.2-1b")
        assert status == 502
        assert "--offline" in message
        status, message = refusal(node, "org/other")
        assert status == 404
        assert "--offline" in message
    assert hub.log == []


def test_what_the_hub_refuses_is_told(hub: Hub, home: Path) -> None:
    """No such repository is a 404, a gated one says to set HF_TOKEN, an unreachable hub to try again."""
    with start(hub, home) as (node,):
        assert refusal(node, "org/none")[0] == 404
        status, message = refusal(node, "org/gated")
        assert status == 502
        assert "HF_TOKEN" in message
        for name in ("../demo", "/etc", "%2e%2e/demo", "org/../demo", "./demo", "a/b/c"):
            assert refusal(node, name)[0] == 404, name
        assert not any(".." in path or "etc" in path for _, path, _ in hub.log)


@pytest.mark.parametrize("remove", [False, True])
def test_a_folder_that_changes_under_a_loaded_model(tmp_path: Path, remove: bool) -> None:
    """The loaded model goes on with its own tokenizer while its folder holds another model or none, and says what to do
    when it was never read; unloaded, the name means what is there now."""
    folder = tmp_path / "models" / "mine"
    copy(DEMO, folder)
    with nodes(tmp_path / "home", ["--discovery-module", "none", "--models-dir", str(folder.parent)]) as (node,):
        first = node.request("POST", "/v1/instances", {"model": "mine"})[1]["id"]
        folder.rename(tmp_path / "aside")
        status, message = refusal(node, "mine")
        assert status == 409
        assert "exo unload mine" in message
        (tmp_path / "aside").rename(folder)
        before = ask(node, "mine")
        folder.rename(tmp_path / "aside")
        if not remove:
            write_model(folder, config={**CONFIG, "vocab_size": 2000})
            write_byte_level(folder, chat_template="{{ messages[0].content }}")
        assert ask(node, "mine") == before
        assert node.request("DELETE", f"/v1/instances/{first}")[0] == 200
        status, answer = node.request("POST", "/v1/completions", {"model": "mine", "prompt": "Hi", "max_tokens": 2})
        assert status == (404 if remove else 200), answer
