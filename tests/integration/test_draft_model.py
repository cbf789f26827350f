"""`--draft-model` through real nodes: the bundled model guesses for itself, on one node and on two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import ROOT, NodeProcess, nodes, wait_until

pytestmark = pytest.mark.engine_mlx
DEMO = ROOT / "exo_node" / "models" / "demo"
END = str(json.loads((DEMO / "config.json").read_text())["eos_token_id"])
QUESTIONS = ["What is exo?", "Tell me a story about a cat."]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """Two nodes, the second without speculation; `other-words` has two of the bundled model's tokens exchanged."""
    pytest.importorskip("mlx.core")
    root = tmp_path_factory.mktemp("drafts")
    other = Path(shutil.copytree(DEMO, root / "models" / "other-words"))
    fields = json.loads((other / "tokenizer.json").read_text())
    words = fields["model"]["vocab"]
    one, two = list(words)[-2:]
    words[one], words[two] = words[two], words[one]
    (other / "tokenizer.json").write_text(json.dumps(fields))
    settings = ["--inference-engine", "mlx", "--models-dir", str(root / "models")]
    with nodes(root / "home", settings, [*settings, "--no-speculation"]) as both:
        yield both


def _load(node: NodeProcess, **body: Any) -> tuple[int, Any]:
    return node.request("POST", "/v1/instances", {"model": "demo", **body})


def _texts(node: NodeProcess) -> list[str | None]:
    """Greedy and seeded answers that may not end: so long that even guesses that cost what they bring, as on a busy
    machine, are tried now and then (`drafting.RETRY`)."""
    client = node.client()
    return [
        client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": question}],
            temperature=heat,
            seed=3,
            max_tokens=160,
            logit_bias={END: -100},
        )
        .choices[0]
        .message.content
        for question in QUESTIONS
        for heat in (0, 1)
    ]


def _served(node: NodeProcess, stages: int, **body: Any) -> tuple[list[str | None], list[dict[str, Any]]]:
    """Load, ask, unload: the answers and the stages' reports."""
    first, second = (
        node.node_id,
        next(one for one in node.request("GET", "/v1/topology")[1]["nodes"] if one != node.node_id),
    )
    status, instance = _load(node, nodes=[first, second][:stages], **body)
    assert (status, instance["draft_model"]) == (200, body.get("draft_model"))
    try:
        texts = _texts(node)
        return texts, node.request("GET", f"/v1/instances/{instance['id']}/stats")[1]["stages"]
    finally:
        node.request("DELETE", f"/v1/instances/{instance['id']}")


@pytest.mark.parametrize("stages", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_the_text_is_as_without(cluster: list[NodeProcess], stages: int) -> None:
    """Same answers, greedy and seeded; guesses of a model for itself are right; its bytes are told."""
    first = cluster[0]
    plain, without = _served(first, stages)
    drafted, with_model = _served(first, stages, draft_model="demo")
    assert drafted == plain
    assert with_model[0]["scheduling"]["accepted_tokens"] > 0
    assert with_model[0]["info"]["draft_model"] == "demo"
    more = [
        sum(one[kind] for one in with_model) - sum(one[kind] for one in without)
        for kind in ("weight_bytes", "kv_bytes")
    ]
    assert more[0] == pytest.approx((DEMO / "model.safetensors").stat().st_size, rel=0.05)
    assert more[1] > 0


def test_what_cannot_guess_is_refused(cluster: list[NodeProcess]) -> None:
    """Unknown, of another vocabulary, beside a head that does not speculate: said at once, nothing is left loaded."""
    first, second = cluster
    for body, code, said in (
        ({"draft_model": "no-such-model"}, 404, "no-such-model"),
        ({"draft_model": "other-words"}, 400, "vocabularies differ"),
        ({"draft_model": "demo", "nodes": [second.node_id]}, 400, "--no-speculation"),
        ({"draft_model": ""}, 400, "draft_model"),
    ):
        status, told = _load(first, **{"nodes": [first.node_id], **body})
        assert (status, said in told["error"]["message"]) == (code, True), told
        assert first.request("GET", "/v1/instances")[1]["data"] == []
    # Who did not ask hears a moment later that the load which had begun is given up.
    wait_until(lambda: second.request("GET", "/v1/instances")[1]["data"] == [], 5)


def test_exo_run(cluster: list[NodeProcess]) -> None:
    """`exo run --draft-model` loads and asks, the status tells it; what is loaded without is not passed off as with."""
    first = cluster[0]
    environment = {**os.environ, "EXO_HOME": str(first.home), "COLUMNS": "200"}
    at = ["--api-port", first.api.rpartition(":")[2]]

    def exo(*line: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "exo_node", *line, *at]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)

    status, instance = _load(first, nodes=[first.node_id])
    assert status == 200
    status, told = _load(first, reuse=True, draft_model="demo")
    assert (status, "loaded without a draft model already" in told["error"]["message"]) == (409, True)
    assert first.request("DELETE", f"/v1/instances/{instance['id']}")[0] == 200
    done = exo("load", "demo", "--draft-model", "demo", "--node", first.node_id)
    assert "drafts by demo" in done.stdout, done.stderr
    assert exo(
        "run", "demo", "--draft-model", "demo", "--prompt", "What is 7 + 5?", "--max-tokens", "20"
    ).stdout.strip()
