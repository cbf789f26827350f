"""/v1/embeddings by local models, one node or a ring of three engines: transformers' vectors, and what clients send."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from exo_node.models.tokenizer import Tokenizer
from exo_node.sdk import LiteLLMConfig, LiteLLMService
from tests.checkpoints import reference_states
from tests.integration.harness import ROOT, NodeProcess, nodes

pytestmark = [pytest.mark.reference, pytest.mark.engine_mlx, pytest.mark.engine_tinygrad]
DEMO = ROOT / "exo_node" / "models" / "demo"
LAYOUTS = {"one": ["mlx"], "three": ["tinygrad", "mlx", "tinygrad"]}
TEXTS = ["What is exo?", "The ring sends one message per hop.", "你好", "Once upon a time there were two cats. " * 60]
ROOM = 1024
SAME = 1e-5  # of a vector of length 1: what shares a step differs by this much (--reproducible: by nothing)


@pytest.fixture(scope="module", params=list(LAYOUTS))
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """The last node of a cluster that has "last-one", the demo model whose files ask for the last token, everywhere."""
    root = tmp_path_factory.mktemp("embeddings")
    model = root / "models" / "last-one"
    shutil.copytree(DEMO, model)
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    arguments = [["--inference-engine", one, "--models-dir", str(root / "models")] for one in LAYOUTS[request.param]]
    with nodes(root / "home", *arguments) as cluster:
        wanted = {"model": "last-one", "min_nodes": len(cluster), "nodes": [one.node_id for one in cluster]}
        assert cluster[0].request("POST", "/v1/instances", wanted)[0] == 200
        yield cluster[-1]


@pytest.fixture(scope="module")
def ids() -> list[list[int]]:
    tokenizer = Tokenizer.load(DEMO)
    return [tokenizer.encode(text, add_special_tokens=True) for text in TEXTS]


def embed(node: NodeProcess, **fields: Any) -> tuple[npt.NDArray[np.float64], Any]:
    """The vectors as rows, and the answer."""
    status, answer = node.request("POST", "/v1/embeddings", {"model": "last-one", **fields})
    assert status == 200, answer
    assert [row["index"] for row in answer["data"]] == list(range(len(answer["data"])))
    return np.array([row["embedding"] for row in answer["data"]]), answer


def reference(ids: list[list[int]], pooling: str, dimensions: int = ROOM) -> npt.NDArray[np.float64]:
    """transformers' hidden states behind the final norm, pooled, cut and scaled in float64."""
    rows = []
    for one in ids:
        states = reference_states(DEMO, one).astype(np.float64)
        vector = (states.mean(axis=0) if pooling == "mean" else states[-1])[:dimensions]
        rows.append(vector / np.linalg.norm(vector))
    return np.array(rows)


@pytest.mark.parametrize("pooling", ["mean", "last", None])
def test_vectors_are_transformers(node: NodeProcess, ids: list[list[int]], pooling: str | None) -> None:
    """Cosine above 0.9999 for texts of one token and of several chunks; without `pooling` as the model's files say."""
    found, answer = embed(node, input=TEXTS, pooling=pooling)
    cosines = (found * reference(ids, pooling or "last")).sum(axis=1)
    assert cosines.min() > 0.9999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert answer["usage"] == {"prompt_tokens": sum(map(len, ids)), "total_tokens": sum(map(len, ids))}
    assert (answer["object"], answer["model"]) == ("list", "last-one")


def test_company_changes_nothing(node: NodeProcess) -> None:
    """A text's vector is the same alone and among 40."""
    many, _ = embed(node, input=[f"{text} {i}" for i in range(10) for text in TEXTS[:3]] + TEXTS[:3])
    alone, _ = embed(node, input=TEXTS[1])
    np.testing.assert_allclose(many[-2], alone[0], rtol=0, atol=SAME)


def test_what_openais_client_sends(node: NodeProcess, ids: list[list[int]]) -> None:
    """The official SDK asks for base64 unasked; ids instead of text, and fewer dimensions, give what they should."""
    client = node.client()
    plain = client.embeddings.create(model="last-one", input=TEXTS)
    by_ids = client.embeddings.create(model="last-one", input=ids, dimensions=16)
    wanted = embed(node, input=TEXTS)[0]
    np.testing.assert_allclose([row.embedding for row in plain.data], wanted, rtol=0, atol=SAME)
    short = np.array([row.embedding for row in by_ids.data])
    assert short.shape == (len(ids), 16)
    assert (short * reference(ids, "last", 16)).sum(axis=1).min() > 0.9999


def test_ollamas_route_and_our_own_sdk(node: NodeProcess) -> None:
    """Both go the same way."""
    wanted = embed(node, input=TEXTS[:2])[0]
    status, answer = node.request("POST", "/api/embed", {"model": "last-one", "input": TEXTS[:2]})
    assert status == 200, answer
    np.testing.assert_allclose(answer["embeddings"], wanted, rtol=0, atol=SAME)
    with closing(LiteLLMService(LiteLLMConfig(base_url=node.api))) as service:
        made = service.create_embedding(TEXTS[:2], "last-one")
    np.testing.assert_allclose([row.embedding for row in made.data], wanted, rtol=0, atol=SAME)


def test_refusals(node: NodeProcess) -> None:
    """What cannot be is a 400 that names its field: too long, too many dimensions, a pooling that makes no sense."""
    for fields, param in (
        ({"input": ["ok", "word " * 3000]}, "input[1]"),
        ({"input": "x", "dimensions": 129}, "dimensions"),
        ({"input": "x", "pooling": "cls"}, "pooling"),
        ({"input": [[1, 99999]]}, "input"),
    ):
        status, answer = node.request("POST", "/v1/embeddings", {"model": "last-one", **fields})
        assert (status, answer["error"]["param"]) == (400, param), answer
