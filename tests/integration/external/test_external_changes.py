"""A daemon with external models whose configuration changes while it runs."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest

from tests.integration.external_stage import HELLO, KEY, LONG, Stage, needs_litellm
from tests.integration.harness import wait_until
from tests.standins import answer_to


def test_deployments_at_run_time(stage: Stage) -> None:
    """One is added, asked, kept through a reload, and taken away; a wrong one is a 400 that names the field."""
    base = {"api_base": f"{stage.openai.url}/v1", "api_key": KEY}
    record = {"id": "late-1", "model_name": "late", "litellm_params": {"model": "openai/gpt-4o", **base}}
    status, row = stage.node.request("POST", "/v1/deployments", record)
    assert (status, row["id"], row["added_at_run_time"]) == (200, "late-1", True), row
    assert KEY not in str(row)
    assert stage.chat("late").headers["x-exo-backend"] == "late-1"
    assert stage.node.request("POST", "/v1/deployments", record)[0] == 400
    wrong = {**record, "id": "late-2", "litellm_params": {"model": "openai/gpt-4o", "rpm": "many"}}
    status, error = stage.node.request("POST", "/v1/deployments", wrong)
    assert (status, "rpm" in error["error"]["message"]) == (400, True), error
    assert stage.node.request("POST", "/v1/config/reload")[0] == 200
    assert "late-1" in stage.deployments()
    assert stage.node.request("DELETE", "/v1/deployments/late-1")[0] == 200
    assert stage.node.request("DELETE", "/v1/deployments/late-1")[0] == 404
    with pytest.raises(openai.NotFoundError):
        stage.chat("late")


def test_defaults_at_run_time(stage: Stage) -> None:
    """`POST /v1/config` fills in what requests leave open, and holds through a reload until it is taken back."""
    change = {"default_model": "fast", "temperature": 0.3, "max_tokens": 4}
    assert stage.node.request("POST", "/v1/config", change)[0] == 200
    assert stage.node.request("POST", "/v1/config/reload")[0] == 200
    status, answer = stage.node.request("POST", "/v1/chat/completions", {"messages": HELLO})
    assert (status, answer["choices"][0]["finish_reason"]) == (200, "length")
    sent = stage.openai.requests[-1].body
    assert (sent["temperature"], sent["max_tokens"]) == (0.3, 4)
    assert stage.node.request("POST", "/v1/config", dict.fromkeys(change))[1]["default_model"] is None
    stage.chat("fast")
    assert "temperature" not in stage.openai.requests[-1].body
    assert stage.node.request("POST", "/v1/config", {"temperatur": 1})[0] == 400


@pytest.mark.parametrize("how", ["signal", "api"])
def test_reload(stage: Stage, how: str) -> None:
    """Another configuration is taken while a stream runs, which ends as it began."""

    def reload() -> None:
        if how == "signal":
            stage.node.process.send_signal(signal.SIGHUP)
        else:
            assert stage.node.request("POST", "/v1/config/reload")[0] == 200

    stage.openai.queue.append(LONG)
    stream = stage.chat("fast", stream=True).parse()
    words = [next(iter(stream)).choices[0].delta.content or ""]
    stage.config.write_text(stage.text.replace("fast-1", "fast-2").replace("model_name: fast", "model_name: quick"))
    reload()
    wait_until(lambda: "fast-2" in stage.deployments(), 5)
    chunks = list(stream)
    words += [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert len("".join(words).split()) == 40
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert stage.backend("quick") == "fast-2"
    stage.config.write_text(stage.text)
    reload()
    wait_until(lambda: "fast-1" in stage.deployments(), 5)


def test_a_wrong_file_changes_nothing(stage: Stage) -> None:
    """It is refused with file and line, through the API in the answer, after SIGHUP in the log."""
    lines = stage.text.splitlines()
    at = next(number for number, line in enumerate(lines) if "api_base" in line)
    lines.insert(at, "      rpm: many")
    stage.config.write_text("\n".join(lines))
    where = f"config.yaml:{at + 1}"
    before = stage.deployments()
    status, answer = stage.node.request("POST", "/v1/config/reload")
    assert (status, where in answer["error"]["message"]) == (400, True), answer
    stage.node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: where in stage.node.log(), 5, stage.node.log)
    assert stage.deployments() == before
    assert stage.backend("fast") == "fast-1"


@contextmanager
def configured(stage: Stage, more: str) -> Iterator[None]:
    """The file with these lines more."""
    stage.config.write_text(f"{stage.text}{more}\n")
    try:
        status, answer = stage.node.request("POST", "/v1/config/reload")
        assert status == 200, answer
        yield
    finally:
        stage.config.write_text(stage.text)
        stage.node.request("POST", "/v1/config/reload")


@needs_litellm
def test_litellms_callbacks_and_prices(stage: Stage) -> None:
    """A callback of LiteLLM's own is told of calls that LiteLLM never saw; a name that it lacks is refused. Once its
    sidecar runs, its prices are known."""
    told: list[tuple[str, Any]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((self.path, json.loads(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        variables = f"{{OPENMETER_API_ENDPOINT: 'http://127.0.0.1:{server.server_port}', OPENMETER_API_KEY: k}}"
        with configured(stage, f"callbacks: [openmeter]\nenvironment_variables: {variables}"):
            stage.chat("fast", user="ann")
            wait_until(lambda: bool(told), 30, stage.node.log)
        server.shutdown()
    path, event = told[0]
    assert (path, event["subject"], event["data"]["model"]) == ("/api/v1/events", "ann", "gpt-4o-mini")
    stage.config.write_text(f"{stage.text}callbacks: [openmetre]\n")
    status, answer = stage.node.request("POST", "/v1/config/reload")
    assert (status, "did you mean openmeter?" in answer["error"]["message"]) == (400, True), answer
    dear = "deepseek/deepseek-coder"  # in LiteLLM's table, not in ours

    def source() -> Any:
        path = f"/v1/cost/estimate?model={dear}&prompt_tokens=1000&completion_tokens=10"
        return stage.node.request("GET", path)[1].get("price_source")

    wait_until(lambda: source() == "litellm", 20)


def test_an_own_check_of_a_cascade(stage: Stage) -> None:
    """`cascade_check` sends an answer that it does not like to the next backend."""
    asked: Any = {"max_tokens": 5, "extra_body": {"exo": {"strategy": "cascade"}}}
    assert "escalated" not in stage.chat("fast", **asked).headers["x-exo-attempts"]
    with configured(stage, "cascade_check: operator:is_not"):  # of the call and the answer: always true
        raw = stage.chat("fast", **asked)
    assert raw.headers["x-exo-attempts"] == "fast-1:escalated, ring:demo:ok"
    assert "escalated" not in stage.chat("fast", **asked).headers["x-exo-attempts"]


def test_kept_answers(stage: Stage) -> None:
    """With the cache on the same question is asked once; a hit replays as a stream; `no-cache` asks again."""
    stage.node.request("POST", "/v1/config", {"enable_caching": True})
    try:
        question: Any = {"messages": [{"role": "user", "content": "Keep this"}]}
        first = stage.chat("fast", **question)
        asked = len(stage.openai.requests)
        second = stage.chat("fast", **question)
        assert (first.headers["x-exo-cached"], second.headers["x-exo-cached"]) == ("false", "true")
        assert second.parse().choices[0].message.content == first.parse().choices[0].message.content
        chunks = list(stage.chat("fast", stream=True, **question).parse())
        text = "".join(c.choices[0].delta.content or "" for c in chunks)
        assert (text, chunks[-1].choices[0].finish_reason) == (answer_to("Keep this"), "stop")
        assert len(stage.openai.requests) == asked
        again = stage.chat("fast", **question, extra_headers={"Cache-Control": "no-cache"})
        assert again.headers["x-exo-cached"] == "false"
        stage.openai.queue.append(LONG)  # events that come one by one take a shorter way where nobody keeps them
        streamed: Any = {"messages": [{"role": "user", "content": "Keep this stream"}]}
        chunks = list(stage.chat("fast", stream=True, **streamed).parse())
        kept = stage.chat("fast", **streamed)
        assert kept.headers["x-exo-cached"] == "true"
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert kept.parse().choices[0].message.content == text
    finally:
        stage.node.request("POST", "/v1/config", {"enable_caching": None})
    assert stage.chat("fast", **question).headers["x-exo-cached"] == "false"
