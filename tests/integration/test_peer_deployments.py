"""Nodes of one cluster: A has no key and uses what B and C may call; keys stay there, and they may die over a call."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.harness import NodeProcess, wait_until
from tests.standins import Script, Standin, answer_to, serve, standin

PHRASE = "niruf hinat kikup mahov pidiz tuduv zuvub bubav"
KEY = "sk-planted-peer-0123456789"
WILD = "sk-planted-wild-0123456789"
HELLO: Any = [{"role": "user", "content": "Hello there"}]
CONFIG = """\
model_list:
  - model_name: @NAME@
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/PLANTED_KEY, api_base: "@URL@/v1"}
    model_info: {id: @NAME@-1}
equivalents: "off"
"""
CONFIG_A = """\
fallbacks: {shared: [demo], parting: [demo]}
equivalents: "off"
continuation: any
"""


@dataclass
class Pair:
    a: NodeProcess
    b: NodeProcess
    c: NodeProcess
    provider: Standin
    wild: Standin

    def chat(self, **more: Any) -> Any:
        asked: Any = {"model": "shared", "messages": HELLO, **more}
        return self.a.client().chat.completions.with_raw_response.create(**asked)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("peers")
    provider, wild = standin("openai", key=KEY), standin("openai", key=WILD)
    with serve(provider, wild):
        port, other = free_port(), free_port()
        (folder / "a.yaml").write_text(CONFIG_A)
        for name, model in (("b", "shared"), ("c", "parting")):
            (folder / f"{name}.yaml").write_text(CONFIG.replace("@NAME@", model).replace("@URL@", provider.url))
        common = ["--cluster-key", PHRASE, "--discovery-module", "none", "-v"]
        keys = {"PLANTED_KEY": KEY, "OPENAI_API_KEY": WILD, "OPENAI_BASE_URL": f"{wild.url}/v1"}
        started: list[NodeProcess] = []

        def start(name: str, *arguments: str, env: dict[str, str] | None = None) -> NodeProcess:
            config = ("--litellm-config", str(folder / f"{name}.yaml"))
            started.append(NodeProcess(folder / f"home-{name}", *common, *arguments, *config, env=env))
            return started[-1]

        try:
            b = start("b", "--node-port", str(port), env=keys)
            c = start("c", "--node-port", str(other), "--shutdown-timeout", "1", env={"PLANTED_KEY": KEY})
            for node in started:
                node.wait_ready()  # before A: whoever dials too early waits longer and longer to dial again
            a = start("a", "--peer", f"127.0.0.1:{port}", "--peer", f"127.0.0.1:{other}").wait_ready()
            a.wait_nodes(3)
            wait_until(lambda: {"shared", "parting"} <= {one.id for one in a.client().models.list()}, 10)
            yield Pair(a, b, c, provider, wild)
        except BaseException:
            for node in started:
                print(f"--- {node.node_id}\n{node.log()[-6000:]}")
            raise
        finally:
            for node in started:
                node.stop()


def test_the_keyless_node_uses_its_peers_deployment(pair: Pair) -> None:
    """Whole and streamed answers come through B, which asks with its key; the headers name the deployment and node."""
    raw = pair.chat()
    assert raw.headers["x-exo-backend"] == f"shared-1@{pair.b.node_id}"
    assert raw.parse().choices[0].message.content == answer_to("Hello there")
    chunks = list(pair.chat(stream=True, stream_options={"include_usage": True}).parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == answer_to("Hello there")
    assert chunks[-1].usage.completion_tokens > 0
    assert {one.headers["authorization"] for one in pair.provider.requests} == {f"Bearer {KEY}"}


def test_a_key_in_the_peers_environment(pair: Pair) -> None:
    """Any model of a provider whose key only B has."""
    raw = pair.chat(model="openai/gpt-4o-mini")
    assert raw.headers["x-exo-backend"] == f"auto:openai/gpt-4o-mini@{pair.b.node_id}"
    assert pair.wild.requests[-1].body["model"] == "gpt-4o-mini"
    found = pair.a.client().embeddings.create(model="openai/text-embedding-3-small", input=["one"])
    assert len(found.data[0].embedding) == 8


def test_the_providers_error_is_told(pair: Pair) -> None:
    """What is the request's own fault comes back as B was told it, without another try; a provider
    that has no room is passed over."""
    pair.provider.queue.append(Script(status=400, message="temperature is too high", code="bad_temperature"))
    with pytest.raises(openai.BadRequestError) as error:
        pair.chat()
    assert "temperature is too high" in str(error.value)
    pair.provider.script = Script(status=429, retry_after="1")
    try:
        assert pair.chat(max_tokens=4).headers["x-exo-backend"] == "ring:demo"
    finally:
        pair.provider.script = Script()
    wait_until(lambda: pair.chat(max_tokens=4).headers["x-exo-backend"].startswith("shared-1@"), 20)


def test_a_node_leaves_in_the_middle(pair: Pair) -> None:
    """SIGTERM lets a peer's stream run for a while, and refuses new calls; then A goes on with the answer."""
    pair.provider.script = Script(chunks=2000, gap_s=0.02)
    try:
        said = pair.chat(model="parting", stream=True, max_tokens=400).parse()
        chunks = [next(said) for _ in range(4)]
        pair.c.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "may run for 1 s more: 1" in pair.c.log(), 10)
        assert pair.chat(model="parting", max_tokens=4).headers["x-exo-backend"] == "ring:demo"
        chunks += said
    finally:
        pair.provider.script = Script()
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] != []
    extra = next(c.model_extra["exo"] for c in reversed(chunks) if (c.model_extra or {}).get("exo"))
    first, *rest = extra["backends"]  # the ring may have lost a shard with the node, and be placed again
    assert (extra["continued"], first, set(rest)) == (True, f"parting-1@{pair.c.node_id}", {"ring:demo"})
    assert pair.c.stop() == 0
    assert "Traceback" not in pair.c.log()
    wait_until(lambda: len(pair.a.topology()["nodes"]) == 2, 20)


def test_b_dies_in_the_middle(pair: Pair) -> None:
    """A's own ring goes on with the answer; where nobody may, the client gets one well-formed error.

    Afterwards nothing of B is offered any more, the fallback serves the name, and the key was never at A.
    """
    pair.provider.script = Script(chunks=200, gap_s=0.03)
    results: dict[str, list[Any]] = {"any": [], "off": []}
    errors: dict[str, Exception] = {}
    flowing = {name: threading.Event() for name in results}

    def read(name: str) -> None:
        try:
            body = {"exo": {"continuation": name}}
            for chunk in pair.chat(stream=True, max_tokens=40, extra_body=body).parse():
                results[name].append(chunk)
                if len(results[name]) > 3:
                    flowing[name].set()
        except openai.APIError as error:
            errors[name] = error
        finally:
            flowing[name].set()

    threads = [threading.Thread(target=read, args=(name,)) for name in results]
    for thread in threads:
        thread.start()
    for event in flowing.values():
        assert event.wait(20)
    pair.b.kill()
    for thread in threads:
        thread.join(30)
    assert "any" not in errors, errors
    chunks = results["any"]
    finishes = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert len(finishes) == 1, finishes
    extra = next(c.model_extra["exo"] for c in reversed(chunks) if (c.model_extra or {}).get("exo"))
    assert (extra["continued"], extra["backends"]) == (True, [f"shared-1@{pair.b.node_id}", "ring:demo"])
    assert "upstream_" in str(getattr(errors["off"], "code", "")), errors
    assert not any(c.choices and c.choices[0].finish_reason for c in results["off"])

    wait_until(lambda: pair.b.node_id not in str(pair.a.topology()["nodes"]), 60)
    assert "shared" not in [one.id for one in pair.a.client().models.list()]
    assert pair.chat(max_tokens=4).headers["x-exo-backend"] == "ring:demo"
    with pytest.raises(openai.APIStatusError) as gone:
        pair.chat(model="openai/gpt-4o-mini")
    assert "OPENAI_API_KEY" in str(gone.value)
    assert_nowhere(pair, KEY, WILD, pair.provider.url, pair.wild.url)


def assert_nowhere(pair: Pair, *planted: str) -> None:
    """At A: neither in what it says, nor in its files, nor in its log."""
    pages = [
        json.dumps(pair.a.request("GET", path)[1])
        for path in ("/v1/deployments", "/v1/models", "/v1/providers", "/v1/router/stats", "/v1/topology")
    ]
    home: Path = pair.a.home
    files = [path.read_bytes().decode(errors="replace") for path in home.rglob("*") if path.is_file()]
    found = [one for one in planted for text in (*pages, *files) if one in text]
    assert found == []
