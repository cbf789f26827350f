"""Files and batches at a real node, as the official SDK uses them: the ring's demo model and a stand-in provider."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest

from exo_node.api.batching.worker import LIMIT
from tests.integration.harness import ROOT, NodeProcess, nodes, wait_until
from tests.standins import Script, Standin, serve, standin

KEY = "sk-planted-batches-0123456789"
ENDED = ("completed", "failed", "expired", "cancelled")
CONFIG = """\
model_list:
  - model_name: fast
    litellm_params: {model: openai/gpt-4o-mini, api_key: os.environ/PLANTED_KEY, api_base: "@URL@/v1"}
  - model_name: vectors
    litellm_params: {model: openai/text-embedding-3-small, api_key: os.environ/PLANTED_KEY, api_base: "@URL@/v1"}
"""


def arguments(folder: Path, provider: Standin) -> list[str]:
    config = folder / "config.yaml"
    config.write_text(CONFIG.replace("@URL@", provider.url))
    return ["--discovery-module", "none", "--litellm-config", str(config), "--equivalents", "off"]


@pytest.fixture(scope="module")
def provider() -> Iterator[Standin]:
    one = standin("openai", key=KEY)
    with serve(one):
        yield one


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, provider: Standin) -> Iterator[NodeProcess]:
    folder = tmp_path_factory.mktemp("batches")
    with nodes(folder / "home", arguments(folder, provider), env={"PLANTED_KEY": KEY}) as (one,):
        yield one


def lines(bodies: Sequence[dict[str, Any]], url: str = "/v1/chat/completions") -> bytes:
    """An input file; the custom ids are r0, r1, ..."""
    rows = [{"custom_id": f"r{i}", "method": "POST", "url": url, "body": body} for i, body in enumerate(bodies)]
    return b"\n".join(json.dumps(row).encode() for row in rows)


def chat(model: str, text: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def start(client: openai.OpenAI, content: bytes, url: Any = "/v1/chat/completions", **more: Any) -> Any:
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=url, completion_window="24h", **more)


def end(client: openai.OpenAI, ident: str) -> Any:
    wait_until(lambda: client.batches.retrieve(ident).status in ENDED, 60, lambda: client.batches.retrieve(ident))
    return client.batches.retrieve(ident)


def completed(client: openai.OpenAI, ident: str) -> int:
    counts = client.batches.retrieve(ident).request_counts
    return 0 if counts is None else counts.completed


def rows(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    """A result file by custom id; no id is there twice."""
    assert file_id is not None
    found = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    assert len({row["custom_id"] for row in found}) == len(found)
    return {row["custom_id"]: row for row in found}


def test_a_batch_from_upload_to_results(node: NodeProcess) -> None:
    """Ring and provider answer; what fails is in the error file with its status; counts and files tell it all."""
    client = node.client()
    bodies = [chat("demo", "What is exo?", max_tokens=6), chat("fast", "Hello"), chat("demo", "x", temperature=9)]
    batch = start(client, lines(bodies), metadata={"purpose": "test"})
    assert (batch.status, batch.metadata, batch.request_counts.total) == ("validating", {"purpose": "test"}, 0)
    assert batch.expires_at == batch.created_at + 86400
    done = end(client, batch.id)
    assert done.status == "completed"
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (3, 2, 1)
    assert None not in (done.in_progress_at, done.finalizing_at, done.completed_at)
    answers = rows(client, done.output_file_id)
    assert answers["r0"]["response"]["body"]["usage"]["completion_tokens"] == 6
    assert answers["r1"]["response"]["body"]["choices"][0]["message"]["content"].startswith("You said: Hello")
    assert {row["response"]["status_code"] for row in answers.values()} == {200}
    refused = rows(client, done.error_file_id)["r2"]
    assert (refused["response"]["status_code"], refused["response"]["body"]["error"]["param"]) == (400, "temperature")
    assert next(one.id for one in client.batches.list(limit=1)) == batch.id
    kept = client.files.retrieve(str(done.output_file_id))
    assert (kept.purpose, kept.filename) == ("batch_output", f"{batch.id}_output.jsonl")


@pytest.mark.parametrize(
    ("url", "body", "found"),
    [
        ("/v1/completions", {"model": "demo", "prompt": "exo is", "max_tokens": 3}, "choices"),
        ("/v1/embeddings", {"model": "vectors", "input": "words"}, "data"),
        ("/v1/responses", {"model": "demo", "input": "What is exo?", "max_output_tokens": 20}, "output"),
    ],
)
def test_other_endpoints(node: NodeProcess, url: str, body: dict[str, Any], found: str) -> None:
    """A batch answers as its endpoint does."""
    client = node.client()
    done = end(client, start(client, lines([body], url), url).id)
    answer = rows(client, done.output_file_id)["r0"]["response"]["body"]
    assert answer[found]
    if url == "/v1/responses":
        assert client.responses.retrieve(answer["id"]).id == answer["id"]


def test_a_wrong_file_fails_with_its_lines(node: NodeProcess) -> None:
    """Each wrong line is named; nothing is asked."""
    client = node.client()
    good = json.loads(lines([chat("demo", "x")]))
    wrong = [good, good, {**good, "custom_id": "b", "url": "/v1/embeddings"}, {**good, "custom_id": "c", "body": 5}]
    done = end(client, start(client, b"\n".join(json.dumps(one).encode() for one in wrong) + b"\n{").id)
    assert done.status == "failed"
    assert done.errors is not None
    assert [(one.line, one.code, one.param) for one in done.errors.data] == [
        (2, "duplicate_custom_id", "custom_id"),
        (3, "mismatched_url", "url"),
        (4, "invalid_type", "body"),
        (5, "invalid_json_line", None),
    ]


def test_cancel(node: NodeProcess, provider: Standin) -> None:
    """A cancelled batch keeps what was answered and ends what is under way."""
    client = node.client()
    provider.queue.extend([Script(), *[Script(first_s=60)] * 4])
    batch = start(client, lines([chat("fast", f"n{i}") for i in range(5)]))
    wait_until(lambda: completed(client, batch.id) == 1, 30)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    done = end(client, batch.id)
    assert (done.status, done.request_counts.completed) == ("cancelled", 1)
    assert len(rows(client, done.output_file_id)) == 1
    assert done.cancelled_at is not None
    assert client.batches.cancel(batch.id).status == "cancelled"


def test_a_few_at_once(node: NodeProcess, provider: Standin) -> None:
    """Batches have no more than so many requests under way."""
    client, most = node.client(), 0
    provider.queue.extend([Script(first_s=0.3)] * 6)
    batch = start(client, lines([chat("fast", f"n{i}") for i in range(6)]))
    while client.batches.retrieve(batch.id).status not in ENDED:
        most = max(most, node.request("GET", "/v1/router/stats")[1]["requests"]["in_flight"])
    assert 1 <= most <= LIMIT


def test_files(node: NodeProcess) -> None:
    """Upload, list in pages, read back, delete; what a file cannot be is said by name."""
    client = node.client()
    there = [client.files.create(file=(f"{i}.jsonl", b"{}\n" * i), purpose="batch").id for i in (1, 2, 3)]
    listed = client.files.list(limit=2, order="asc", after=there[0], purpose="batch")
    assert [one.id for one in listed.data] == there[1:]
    assert [one.id for one in client.files.list(limit=2)][:3] == there[::-1]  # the SDK walks the pages
    assert client.files.content(there[1]).content == b"{}\n{}\n"
    assert (node.home / "files" / there[1]).stat().st_mode & 0o777 == 0o600
    assert client.files.delete(there[1]).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(there[1])
    with pytest.raises(openai.BadRequestError, match="fine-tune is not done"):
        client.files.create(file=("a", b"x"), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="input_file_id"):
        client.batches.create(input_file_id=there[1], endpoint="/v1/completions", completion_window="24h")
    expiring = client.files.create(
        file=("a", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert expiring.expires_at == expiring.created_at + 3600


def test_a_large_file(node: NodeProcess) -> None:
    """Files may be larger than any other request: 80 MB come and go."""
    content = (b"x" * 1023 + b"\n") * (80 * 1024)
    file = node.client().files.create(file=("large.jsonl", content), purpose="batch")
    assert file.bytes == len(content)
    assert node.client().files.content(file.id).content == content
    node.client().files.delete(file.id)


def test_a_killed_node_goes_on(tmp_path: Path) -> None:
    """kill -9 in the middle: the node that is started again asks what has no answer; none is there twice or missing."""
    count = 12
    provider = standin("openai", key=KEY)
    provider.queue.extend([Script()] * 3)
    provider.script = Script(first_s=60)
    with serve(provider):
        options = arguments(tmp_path, provider)
        first = NodeProcess(tmp_path / "home", *options, env={"PLANTED_KEY": KEY}).wait_ready()
        batch = start(first.client(), lines([chat("fast", f"question {i}") for i in range(count)]))
        wait_until(lambda: completed(first.client(), batch.id) == 3 and len(provider.requests) == 3 + LIMIT, 30)
        first.kill()
        provider.script = Script()
        output = next((tmp_path / "home" / "files").glob("*.lock")).parent
        results = [one for one in output.iterdir() if one.name not in (batch.input_file_id, f"{batch.id}.lock")]
        assert len(results) == 1
        with results[0].open("ab") as handle:  # as if the kill had come in the middle of a line
            handle.write(b'{"id":"batch_req_half","custom_id":"r9","respo')
        assert results[0].read_bytes().count(b"\n") == 3
        asked = len(provider.requests)
        with nodes(tmp_path / "home", options, env={"PLANTED_KEY": KEY}) as (second,):
            done = end(second.client(), batch.id)
            answers = rows(second.client(), done.output_file_id)
        assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", count, 0)
        assert set(answers) == {f"r{i}" for i in range(count)}
        for i in range(count):
            text = answers[f"r{i}"]["response"]["body"]["choices"][0]["message"]["content"]
            assert text.startswith(f"You said: question {i}.")
        assert len(provider.requests) - asked == count - 3  # nothing that had its line was asked again


def test_owners(tmp_path: Path) -> None:
    """Another key sees neither files nor batches; a key's own limits and models hold for its batches; a revoked
    key's batch is not answered."""
    home, provider = tmp_path / "home", standin("openai", key=KEY)
    with serve(provider), nodes(home, arguments(tmp_path, provider), env={"PLANTED_KEY": KEY}) as (node,):
        mine, other = (_client(node, _key("add", "--name", name, "--models", "fast", home=home)) for name in "ab")
        wait_until(lambda: not _knows(node.client()) and _knows(mine) and _knows(other), 20)
        batch = end(mine, start(mine, lines([chat("fast", "hi"), chat("demo", "hi")])).id)
        assert rows(mine, batch.error_file_id)["r1"]["response"]["body"]["error"]["code"] == "model_not_allowed"
        assert list(other.files.list()) == []
        assert list(other.batches.list()) == []
        for refused in (
            lambda: other.batches.retrieve(batch.id),
            lambda: other.batches.cancel(batch.id),
            lambda: other.files.content(str(batch.output_file_id)),
            lambda: other.files.delete(batch.input_file_id),
        ):
            with pytest.raises(openai.NotFoundError):
                refused()
        provider.script = Script(first_s=1.0)
        waiting = start(mine, lines([chat("fast", f"n{i}") for i in range(40)]))
        wait_until(lambda: mine.batches.retrieve(waiting.id).status == "in_progress", 20)
        _key("revoke", "a", home=home)
        wait_until(lambda: _ended(home, waiting.id), 40)
        assert b"revoked" in b"".join(one.read_bytes() for one in (home / "files").iterdir())


def _client(node: NodeProcess, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{node.api}/v1", api_key=key, max_retries=0, timeout=60)


def _knows(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.AuthenticationError:
        return False
    return True


def _key(*said: str, home: Path) -> str:
    command = [sys.executable, "-m", "exo_node", "apikey", *said]
    done = subprocess.run(
        command, env={**os.environ, "EXO_HOME": str(home)}, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _ended(home: Path, ident: str) -> bool:
    with sqlite3.connect(home / "node-shared.db") as db:
        found = db.execute("SELECT status FROM batches WHERE id = ?", (ident,)).fetchone()
    return found is not None and found[0] == "completed"
