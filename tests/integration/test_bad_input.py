"""What users get wrong: each gives a one-line error that says what to do, and the node lives on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import NodeProcess, nodes
from tests.tiny_models import CONFIG, write_byte_level, write_model


def make(folder: Path, **options: Any) -> Path:
    write_model(folder, config={**CONFIG, "vocab_size": 2000}, **options)  # more than the tokenizer has
    write_byte_level(folder)
    return folder


def truncate(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])


def drop_index_entry(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"].pop(next(name for name in index["weight_map"] if "layers.1" in name))
    path.write_text(json.dumps(index))


def change_config(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", ')


DAMAGES: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "truncated": (truncate, 422, "safetensors"),
    "no-index-entry": (drop_index_entry, 422, "layers.1"),
    "unknown-architecture": (change_config(model_type="mamba9", architectures=["Mamba9"]), 400, "mamba9"),
    "quantized": (change_config(quantization_config={"bits": 4, "quant_method": "gptq"}), 400, "'gptq'"),
    "no-tokenizer": (remove_tokenizer, 422, "tokenizer"),
    "broken-config": (break_config, 422, "config.json"),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node with a folder of damaged models, and one good one."""
    root = tmp_path_factory.mktemp("bad")
    for name, (damage, _, _) in DAMAGES.items():
        damage(make(root / "models" / name, files=2 if name == "no-index-entry" else 1))
    good = make(root / "models" / "good")
    template = json.loads((good / "tokenizer_config.json").read_text())
    template.pop("chat_template", None)
    (good / "tokenizer_config.json").write_text(json.dumps(template))
    (good / "chat_template.jinja").unlink(missing_ok=True)
    with nodes(root / "home", ["--models-dir", str(root / "models"), "--inference-engine", "mlx"]) as (one,):
        yield one


def complete(node: NodeProcess, model: str, **fields: Any) -> tuple[int, Any]:
    return node.request("POST", "/v1/completions", {"model": model, "prompt": "Hi", "max_tokens": 2, **fields})


def check_error(status: int, answer: Any, expected: int, word: str) -> None:
    assert status == expected, answer
    message = answer["error"]["message"]
    assert word in message
    assert "\n" not in message
    assert set(answer["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("name", list(DAMAGES))
def test_damaged_models_are_refused_by_name(node: NodeProcess, name: str) -> None:
    """Each damage is said in one line with what is wrong; the good model still answers afterwards."""
    _, expected, word = DAMAGES[name]
    status, answer = complete(node, name)
    check_error(status, answer, expected, word)
    assert complete(node, "good")[0] == 200
    assert node.request("GET", "/v1/models")[0] == 200


def test_a_tokenizer_without_template_points_to_completions(node: NodeProcess) -> None:
    """Chat with a model that has no chat template: 400 that says which route works."""
    status, answer = node.request(
        "POST", "/v1/chat/completions", {"model": "good", "messages": [{"role": "user", "content": "Hi"}]}
    )
    check_error(status, answer, 400, "/v1/completions")


def test_a_ten_megabyte_prompt_is_refused_with_both_numbers(node: NodeProcess) -> None:
    """400 with the context and what the prompt needs, quickly; the node goes on."""
    status, answer = complete(node, "good", prompt="word " * 2_000_000)
    check_error(status, answer, 400, "context")
    assert answer["error"]["code"] == "context_length_exceeded"
    assert answer["error"]["param"] == "prompt"
    assert complete(node, "good")[0] == 200


def test_an_unknown_model_lists_what_there_is(node: NodeProcess) -> None:
    """404 model_not_found naming the models of this node."""
    status, answer = complete(node, "no-such-model")
    check_error(status, answer, 404, "good")
    assert answer["error"]["code"] == "model_not_found"


def test_placement_mistakes_are_said(node: NodeProcess) -> None:
    """Unknown nodes, more nodes than there are, more nodes than layers."""
    for body, status in (
        ({"model": "good", "nodes": ["nobody"]}, 400),
        ({"model": "good", "min_nodes": 2}, 503),
        ({"model": "good", "min_nodes": 900}, 400),
        ({"model": "no-such-model"}, 404),
        ({"model": "good", "surprise": 1}, 400),
    ):
        found, answer = node.request("POST", "/v1/instances", body)
        assert found == status, answer
        assert "\n" not in answer["error"]["message"]


def test_two_nodes_with_different_files_under_one_name(tmp_path: Path) -> None:
    """The same name, other weights: a ring over both is refused and both nodes are named."""
    make(tmp_path / "one" / "twin", seed=1)
    shutil.copytree(tmp_path / "one" / "twin", tmp_path / "two" / "twin")
    make(tmp_path / "two" / "twin", seed=2)
    with nodes(
        tmp_path / "home", ["--models-dir", str(tmp_path / "one")], ["--models-dir", str(tmp_path / "two")]
    ) as cluster:
        status, answer = cluster[0].request("POST", "/v1/instances", {"model": "twin", "min_nodes": 2})
        check_error(status, answer, 409, "different files")
        assert all(node.node_id in answer["error"]["message"] for node in cluster)
        for node in cluster:
            body = {"model": "twin", "nodes": [node.node_id]}
            assert node.request("POST", "/v1/instances", body)[0] == 200


def test_a_model_that_only_a_peer_holds_is_served_by_every_node(tmp_path: Path) -> None:
    """A node without the files sends the request to the ring, with the tokenizer of the peer that holds them."""
    make(tmp_path / "one" / "only-here")
    with nodes(tmp_path / "home", ["--models-dir", str(tmp_path / "one")], []) as cluster:
        answers = [complete(node, "only-here", temperature=0, max_tokens=8) for node in reversed(cluster)]
        assert [status for status, _ in answers] == [200, 200], answers
        assert answers[0][1]["choices"][0]["text"] == answers[1][1]["choices"][0]["text"]


def test_models_of_the_same_weights_keep_what_is_their_own(tmp_path: Path) -> None:
    """Two folders that differ in chat template and pooling alone: each is served with its own, by every node."""
    first, second = (tmp_path / "models" / name for name in ("first", "second"))
    make(first)
    write_byte_level(first, chat_template="{{ messages[0].content }}")
    shutil.copytree(first, second)
    (second / "1_Pooling").mkdir()
    (second / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')

    def told(node: NodeProcess, model: str, **fields: Any) -> list[float]:
        status, answer = node.request("POST", "/v1/embeddings", {"model": model, "input": "Hello", **fields})
        assert status == 200, answer
        return list(answer["data"][0]["embedding"])

    def prompt_tokens(node: NodeProcess, model: str) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        status, answer = node.request("POST", "/v1/chat/completions", body)
        assert status == 200, answer
        return int(answer["usage"]["prompt_tokens"])

    with nodes(tmp_path / "home", ["--models-dir", str(first.parent)], []) as cluster:
        for node in cluster:
            means, last = (told(node, model) for model in ("first", "second"))
            assert means == pytest.approx(told(node, "second", pooling="mean"), abs=1e-5)
            assert last == pytest.approx(told(node, "first", pooling="last"), abs=1e-5)
            assert means != pytest.approx(last, abs=1e-3)
            assert prompt_tokens(node, "first") == prompt_tokens(node, "second")
        write_byte_level(second, chat_template="Say: {{ messages[0].content }}")
        loaded = next(one["id"] for one in cluster[0].topology()["instances"] if one["model"] == "second")
        assert cluster[1].request("DELETE", f"/v1/instances/{loaded}")[0] == 200
        for node in cluster:
            assert prompt_tokens(node, "second") == prompt_tokens(node, "first") + len("Say: ")
