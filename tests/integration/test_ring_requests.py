"""Several requests at once, clients that go away, and instances that come and go, on a real three-node ring."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import NodeProcess, nodes, wait_until

PROMPTS = [
    "Hello",
    "What is exo?",
    "What is 7 + 5?",
    "Which port does the API listen on?",
    "Tell me a short story.",
    "How does a ring work?",
    "Who made you?",
    "How do nodes find each other?",
]


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[NodeProcess], str]]:
    """Three reproducible nodes of both engines, and the id of an instance of the bundled model over all three."""
    home = tmp_path_factory.mktemp("ring") / "home"
    engines = ("mlx", "tinygrad", "mlx")
    with nodes(
        home, *(["--inference-engine", engine, "--reproducible", "--no-prefix-cache"] for engine in engines)
    ) as cluster:
        body = {"model": "demo", "nodes": [node.node_id for node in cluster]}
        status, instance = cluster[0].request("POST", "/v1/instances", body)
        assert status == 200, instance
        yield cluster, instance["id"]


def ask(node: NodeProcess, prompt: str, **options: Any) -> str:
    answer = node.client().chat.completions.create(
        model="demo", messages=[{"role": "user", "content": prompt}], **{"temperature": 0, "max_tokens": 40, **options}
    )
    return answer.choices[0].message.content or ""


def used(node: NodeProcess, instance: str) -> list[tuple[int, int]]:
    """(slots in use, cached tokens) of every stage."""
    status, stats = node.request("GET", f"/v1/instances/{instance}/stats")
    assert status == 200, stats
    return [(stage["slots_used"], stage["cached_tokens"]) for stage in stats["stages"]]


def test_eight_at_once_give_the_same_texts_as_alone(ring: tuple[list[NodeProcess], str]) -> None:
    """Different prompts in flight together do not touch each other, greedy and seeded, whichever node is asked."""
    cluster, _ = ring
    for options in ({}, {"temperature": 0.8, "seed": 5}):
        alone = [ask(cluster[0], prompt, **options) for prompt in PROMPTS]
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            jobs = [pool.submit(ask, cluster[number % 3], prompt, **options) for number, prompt in enumerate(PROMPTS)]
            together = [job.result() for job in jobs]
        assert together == alone
        assert all(alone)


def test_more_requests_than_slots_wait_and_are_served(ring: tuple[list[NodeProcess], str]) -> None:
    """With every KV slot taken, requests queue and finish; afterwards every slot of every shard is free."""
    cluster, instance = ring
    with ThreadPoolExecutor(12) as pool:
        texts = list(pool.map(lambda _: ask(cluster[0], "Hello", max_tokens=12), range(12)))
    assert len(set(texts)) == 1
    wait_until(lambda: used(cluster[0], instance) == [(0, 0)] * 3, 30, lambda: used(cluster[0], instance))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slots_on_every_shard(
    ring: tuple[list[NodeProcess], str], stream: bool
) -> None:
    """Closing the socket cancels the sequence: KV slots come back on all three shards long before it would end."""
    cluster, instance = ring
    host, port = cluster[1].api.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "max_tokens": 400,
        "stream": stream,
        "temperature": 1.9,
        "logit_bias": {},
        "seed": 3,
    }
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    wait_until(lambda: all(slots for slots, _ in used(cluster[0], instance)), 30, lambda: used(cluster[0], instance))
    assert connection.sock is not None
    connection.sock.close()
    connection.close()
    wait_until(lambda: used(cluster[0], instance) == [(0, 0)] * 3, 30, lambda: used(cluster[0], instance))


def test_n_choices_stop_and_logprobs_over_the_ring(ring: tuple[list[NodeProcess], str]) -> None:
    """n gives that many choices with texts of their own; a stop string ends the text before it."""
    cluster, _ = ring
    chat = cluster[2].client().chat.completions
    asked: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "zq vx jk"}]}
    answer = chat.create(**asked, n=3, temperature=2, seed=1, max_tokens=20, logprobs=True, top_logprobs=2)
    assert len({choice.message.content for choice in answer.choices}) > 1
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert all(len(one.top_logprobs) == 2 for one in choice.logprobs.content)
        assert all(one.logprob <= 0 for one in choice.logprobs.content)
    whole = ask(cluster[0], "What is exo?")
    word = whole.split()[3]
    assert ask(cluster[0], "What is exo?", stop=[word]) == whole[: whole.index(word)]


def test_an_instance_can_be_removed_from_any_node_and_comes_back_on_demand(
    ring: tuple[list[NodeProcess], str],
) -> None:
    """DELETE ends the runners; the next request for the model places it anew, once, however many ask."""
    cluster, instance = ring
    status, _ = cluster[2].request("DELETE", f"/v1/instances/{instance}")
    assert status == 200
    for node in cluster:
        wait_until(lambda node=node: node.topology()["instances"] == [], 30, node.topology)
    answers: list[str] = []
    threads = [threading.Thread(target=lambda node=node: answers.append(ask(node, "Hello"))) for node in cluster]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 3
    assert len(set(answers)) == 1
    wait_until(lambda: len(cluster[0].topology()["instances"]) == 1, 30, cluster[0].topology)
    status, answer = cluster[0].request("DELETE", "/v1/instances/no-such-instance")
    assert status == 404
    assert "no-such-instance" in answer["error"]["message"]


def test_memory_and_models_are_told(ring: tuple[list[NodeProcess], str], tmp_path: Path) -> None:
    """/v1/models lists the bundled model on every node; /v1/topology has exo's shape."""
    cluster, _ = ring
    for node in cluster:
        assert "demo" in [model.id for model in node.client().models.list()]
        topology = node.topology()
        assert topology["active_node_id"] == node.node_id
        assert set(topology["nodes"]) == {other.node_id for other in cluster}
        assert set(topology["peer_graph"]) == set(topology["nodes"])
        assert all(len(links) == 2 for links in topology["peer_graph"].values())
