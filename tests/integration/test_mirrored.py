"""Responses that outlive their node: three daemons on loopback, each with an EXO_HOME of its own, and the real SDK."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.harness import NodeProcess
from tests.integration.test_peer_deployments import free_port

PHRASE = "kijuk hosof dudil tufab kupad kodaz dibup hituh"
# The demo model may not end it before.
LONG: Any = {
    "model": "demo",
    "input": "Tell me a short story.",
    "temperature": 1,
    "max_output_tokens": 200,
    "background": True,
    "stream": True,
    "extra_body": {"seed": 7, "logit_bias": {"2": -100}},
}
READ = 25  # events until the node is killed


class Cluster:
    """The nodes a, b, c."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = [free_port() for _ in range(3)]
        self.started: list[NodeProcess] = []

    def begin(self) -> None:
        """Start all, until they see each other."""
        self.a, self.b, self.c = (self.start(number).wait_ready() for number in range(3))
        for node in self.started:
            node.wait_nodes(3)

    def start(self, number: int) -> NodeProcess:
        others = [port for i, port in enumerate(self._ports) if i != number]
        peers = [word for port in others for word in ("--peer", f"127.0.0.1:{port}")]
        node = NodeProcess(
            self._folder / f"home-{number}", "--cluster-key", PHRASE, "--discovery-module", "none", "-v",
            "--reproducible", "--node-port", str(self._ports[number]), *peers,
        )  # fmt: skip
        self.started.append(node)
        return node


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        made.begin()
        yield made
    except BaseException:
        for node in made.started:
            print(f"--- {node.node_id}\n{node.log()[-6000:]}")
        raise
    finally:
        for node in made.started:
            node.stop()


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def test_the_death_of_the_daemon_that_answers(cluster: Cluster) -> None:
    """kill -9 of the daemon that has the client and the ring: the client goes on at another node with its next number,
    byte for byte as if nothing had happened; a client of a third node sees nothing of it; the dead node comes back and
    has the one answer."""
    a, b, c = cluster.a, cluster.b, cluster.c
    status, _ = a.request("POST", "/v1/instances", {"model": "demo", "min_nodes": 1, "nodes": [a.node_id]})
    assert status == 200
    undisturbed = list(a.client().responses.create(**LONG))
    assert undisturbed[-1].response.usage.output_tokens == 200
    first = undisturbed[0].response.id
    assert [one.to_dict() for one in b.client().responses.retrieve(first, stream=True)] == [
        one.to_dict() for one in undisturbed
    ]
    stream = a.client().responses.create(**LONG)
    events = [event for event, _ in zip(stream, range(READ), strict=False)]
    ident = events[0].response.id
    elsewhere = iter(c.client().responses.retrieve(ident, stream=True))
    followed = [next(elsewhere)]
    a.kill()
    events += b.client().responses.retrieve(ident, stream=True, starting_after=events[-1].sequence_number)
    followed += elsewhere
    assert [event.to_dict() for event in followed] == [event.to_dict() for event in events]
    assert [event.sequence_number for event in events] == list(range(len(undisturbed)))
    assert text_of(events) == text_of(undisturbed)
    assert events[-1].response.usage == undisturbed[-1].response.usage
    assert sum(f"going on with {ident}" in node.log() for node in (b, c)) == 1
    again = cluster.start(0).wait_ready()
    again.wait_nodes(3)
    for node in (again, b, c):
        assert node.client().responses.retrieve(ident).output_text == text_of(undisturbed)
    assert sum(f"going on with {ident}" in node.log() for node in (again, b, c)) == 1
    again.client().responses.delete(ident)
    for node in (again, b, c):
        with pytest.raises(openai.NotFoundError):
            node.client().responses.retrieve(ident)
    spent = [row for node in (b, c) for row in node.request("GET", "/v1/spend")[1]["data"]]
    used = events[-1].response.usage
    assert [(row["prompt_tokens"], row["completion_tokens"]) for row in spent] == [
        (used.input_tokens, used.output_tokens)
    ]  # once, and whole, by who ended it
    stream = again.client().responses.create(**{**LONG, "max_output_tokens": 40})
    short = list(itertools.islice(stream, READ))
    again.process.send_signal(signal.SIGTERM)
    short += stream
    assert [event.sequence_number for event in short] == list(range(len(short)))
    assert short[-1].type == "response.incomplete"  # one that is told to stop completes it, and its mirror has it
    assert again.process.wait(15) == 0, again.log()
    for node in (b, c):
        assert node.client().responses.retrieve(short[0].response.id).output_text == text_of(short)
