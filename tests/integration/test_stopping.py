"""Real daemons that are told to stop while they answer."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.integration.conftest import CONFIG, KEY
from tests.integration.harness import NodeProcess, nodes, wait_until
from tests.standins import Script, Standin, serve, standin


@contextmanager
def provider() -> Iterator[Standin]:
    with serve(one := standin("openai", key=KEY)):
        yield one


def start(home: Path, behind: Standin, *arguments: str) -> NodeProcess:
    """A node whose model "fast" is the stand-in."""
    config = home.parent / "config.yaml"
    config.write_text(CONFIG.replace("@OPENAI@", behind.url))
    alone = ["--discovery-module", "none", "--litellm-config", str(config), "-v"]
    return NodeProcess(home, *alone, *arguments, env={"PLANTED_KEY": KEY}).wait_ready()


def connect(node: NodeProcess) -> http.client.HTTPConnection:
    at = urlsplit(node.api)
    return http.client.HTTPConnection(at.hostname or "", at.port, timeout=60)


class Stream:
    """A streamed chat of its own thread; `text` is complete when `ended` is set."""

    def __init__(self, node: NodeProcess, behind: Standin, script: Script) -> None:
        behind.queue.append(script)
        before = len(behind.requests)
        self.text = ""
        self.ended = threading.Event()
        self._connection = connect(node)
        body = {"model": "fast", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        wait_until(lambda: len(behind.requests) > before, 10)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            self.text = self._connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            self.text = f"broken: {error!r}"
        self.ended.set()

    def events(self) -> list[Any]:
        assert self.ended.wait(10)
        return [line.removeprefix("data: ") for line in self.text.split("\n\n") if line.startswith("data: ")]


def test_sigterm_completes_what_it_can_and_says_what_it_cannot(tmp_path: Path) -> None:
    """A short answer is complete, a long one ends with an error event in time; idle connections delay nothing."""
    with provider() as behind:
        node = start(tmp_path / "home", behind, "--shutdown-timeout", "2")
        probe, idle = connect(node), connect(node)
        for one in (probe, idle):
            one.request("GET", "/health")
            assert one.getresponse().read()
        short = Stream(node, behind, Script(chunks=8, gap_s=0.1))
        long = Stream(node, behind, Script(chunks=600, gap_s=0.1))
        node.process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        wait_until(lambda: "answers that may run" in node.log(), 5, node.log)
        probe.request("GET", "/health")
        answer = probe.getresponse()
        assert (answer.status, json.loads(answer.read())["status"]) == (503, "draining")
        at = urlsplit(node.api)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((at.hostname or "", at.port or 0)).close()
        assert short.events()[-1] == "[DONE]"
        *_, last = long.events()
        assert json.loads(last)["error"]["code"] == "node_stopping"
        assert 1.5 < time.monotonic() - told < 8.0
        assert node.process.wait(10) == 0, node.log()
        assert "answers ended before they were complete: 1" in node.log()


def test_a_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    """Whatever still runs; the runners go with it."""
    with provider() as behind:
        node = start(tmp_path / "home", behind, "--shutdown-timeout", "50")
        long = Stream(node, behind, Script(chunks=600, gap_s=0.1))
        node.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "answers that may run" in node.log(), 5, node.log)
        time.sleep(0.6)  # sooner it would be an echo of the first
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(5) == 128 + signal.SIGTERM
        assert long.ended.wait(5)


@pytest.mark.soak
def test_work_in_the_background_outlives_a_stop(tmp_path: Path) -> None:
    """A batch goes on with the next start; a response in the making is known as failed, not forgotten. (And a runner
    that hangs keeps no node from ending.)"""
    with provider() as behind:
        behind.script = Script(first_s=30.0)
        node = start(tmp_path / "home", behind, "--shutdown-timeout", "0.1")
        client = node.client()
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {
            "model": "fast", "messages": [{"role": "user", "content": "hi"}]}}  # fmt: skip
        upload = client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
        batch = client.batches.create(input_file_id=upload.id, endpoint="/v1/chat/completions", completion_window="24h")
        made = client.responses.create(model="fast", input="hi", background=True)
        wait_until(lambda: len(behind.requests) >= 2, 10)
        assert node.stop() == 0
        behind.script = Script()
        node = start(tmp_path / "home", behind)
        client = node.client()
        wait_until(lambda: client.batches.retrieve(batch.id).status == "completed", 15, node.log)
        assert client.responses.retrieve(made.id).status == "failed"
        client.completions.create(model="demo", prompt="Hi", max_tokens=1)
        (runner,) = psutil.Process(node.process.pid).children()
        runner.suspend()  # it will not end by itself
        assert node.stop() == 0
        assert not runner.is_running() or runner.status() == psutil.STATUS_ZOMBIE


@pytest.mark.soak
def test_a_node_that_stops_hands_its_rings_over(tmp_path: Path) -> None:
    """The other node's client sees its answer go on to the same end, though the ring's only node was told to stop."""
    alone = ["--reproducible", "-v", "--shutdown-timeout", "30"]
    with nodes(tmp_path / "home", ["--node-id", "a", *alone], ["--node-id", "b", *alone]) as (leaves, stays):
        status, placed = stays.request("POST", "/v1/instances", {"model": "demo", "nodes": ["a"]})
        assert status == 200, placed
        ask: Any = {"model": "demo", "prompt": "Tell me a story", "max_tokens": 300, "temperature": 0}
        ask["extra_body"] = {"ignore_eos": True}
        whole = stays.client().completions.create(**ask).choices[0].text
        text = ""
        for chunk in stays.client().completions.create(**ask, stream=True):
            if not text:
                leaves.process.send_signal(signal.SIGTERM)
            text += chunk.choices[0].text if chunk.choices else ""
        assert text == whole
        assert leaves.process.wait(30) == 0, leaves.log()
