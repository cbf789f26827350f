"""Anthropic's and Gemini's wire formats, through LiteLLM in its sidecar, fail in every way: the client gets its answer.

One daemon, one sidecar; each case has a deployment of its own, whose upstream model the stand-in plays by script.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import psutil
import pytest

from tests.integration.harness import NodeProcess, nodes, wait_until
from tests.standins import Script, Standin, answer_to, serve, standin

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None, reason="exo-node[litellm] is not installed"
)

QUESTION = "What is a ring?"
ANSWER = answer_to(QUESTION)
KEY = "sk-planted-wires-0123456789"
PATIENCE_S = 0.7  # of the deployments that stall: enough for LiteLLM to say the first word
WIRES = ("anthropic", "gemini")
WAYS = ("stream", "plain", "alone")
SCRIPTS = {
    "401": Script(), "429": Script(status=429, retry_after="7"), "500": Script(status=500),
    "overloaded": Script(status=529), "stall-first": Script(stall_after=0), "stall-mid": Script(stall_after=3),
    "reset": Script(reset_after=3), "eof": Script(eof_after=3), "malformed": Script(malformed_after=3),
}  # fmt: skip
MID = ("stall-mid", "reset", "eof", "malformed")
PLAIN = [hazard for hazard in SCRIPTS if hazard != "stall-mid"]  # which is the same as at the first word
CAUSE = {
    "401": "auth", "429": "rate_limited", "500": "server", "overloaded": "server", "stall-first": "timeout",
    "stall-mid": "timeout", "reset": "reset", "eof": "eof", "malformed": "malformed",
}  # fmt: skip
HEALTHY = """\
  - model_name: healthy-anthropic
    litellm_params: {model: anthropic/claude-sonnet-4-5, api_key: os.environ/PLANTED_KEY, api_base: "@ANTHROPIC@"}
    model_info: {id: healthy-anthropic}
  - model_name: healthy-openai
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/PLANTED_KEY, api_base: "@OPENAI@/v1"}
    model_info: {id: healthy-openai, supports_assistant_prefill: true}
"""
# Anthropic's wire also has to go on with what another began.
RESCUE = {"anthropic": "healthy-openai", "gemini": "healthy-anthropic"}


def cause_of(hazard: str, *, stream: bool) -> str:
    """A body that ends before its Content-Length is a broken connection; LiteLLM's readers of streams wait for the rest
    of an event that is no JSON, to the stream's end."""
    if hazard == "eof" and not stream:
        return "reset"
    return "eof" if hazard == "malformed" and stream else CAUSE[hazard]


def config(providers: dict[str, Standin]) -> str:
    rows = ["model_list:", HEALTHY.replace("@ANTHROPIC@", providers["anthropic"].url).rstrip("\n")]
    fallbacks = []
    for wire in WIRES:
        base = providers[wire].url + ("/v1beta" if wire == "gemini" else "")
        for hazard in (*SCRIPTS, "warm", "hung"):
            for way in WAYS:
                name = f"{wire}-{hazard}-{way}"
                key = "sk-wrong-987654321" if hazard == "401" else "os.environ/PLANTED_KEY"
                patience = f", timeout: {PATIENCE_S}, stream_timeout: {PATIENCE_S}" if "stall" in hazard else ""
                rows.append(
                    f"  - model_name: {name}\n"
                    f'    litellm_params: {{model: {wire}/{hazard}, api_key: {key}, api_base: "{base}"{patience}}}\n'
                    f"    model_info: {{id: {name}}}"
                )
                if way != "alone":
                    fallbacks.append(f"  {name}: [{RESCUE[wire]}]")
    text = "\n".join([*rows, "router_settings: {num_retries: 0}", "fallbacks:", *fallbacks])
    return text.replace("@OPENAI@", providers["openai"].url) + '\nequivalents: "off"\ncontinuation: any\n'


@dataclass
class Stage:
    node: NodeProcess
    providers: dict[str, Standin]

    def chat(self, model: str, **more: Any) -> Any:
        messages: Any = [{"role": "user", "content": QUESTION}]
        return self.node.client().chat.completions.with_raw_response.create(model=model, messages=messages, **more)

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.node.process.pid).children()
        return [one for one in children if one.is_running() and "exo_node.routing.sidecar" in one.cmdline()]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("wires")
    providers = {name: standin(name, key=KEY) for name in (*WIRES, "openai")}
    for wire in WIRES:
        providers[wire].by_model.update(SCRIPTS)
    with serve(*providers.values()):
        (folder / "config.yaml").write_text(config(providers))
        arguments = ["--discovery-module", "none", "--litellm-config", str(folder / "config.yaml"), "-v"]
        with nodes(folder / "home", arguments, env={"PLANTED_KEY": KEY}) as (node,):
            made = Stage(node, providers)
            for wire in WIRES:  # the sidecar starts, and LiteLLM imports what it needs for each
                made.chat(f"{wire}-warm-stream", stream=True).parse().close()
            yield made


def read(chunks: Any) -> tuple[str, list[str], dict[str, Any]]:
    """(text, finish reasons, what the last chunk says of the way that the answer took)."""
    text, ids = "", set()
    reasons: list[str] = []
    extra: dict[str, Any] = {}
    for chunk in chunks:
        ids.add(chunk.id)
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
        extra = (chunk.model_extra or {}).get("exo") or extra
    assert len(ids) == 1
    return text, reasons, extra


@pytest.mark.parametrize("hazard", SCRIPTS)
@pytest.mark.parametrize("wire", WIRES)
def test_a_healthy_backend_completes_the_stream(stage: Stage, wire: str, hazard: str) -> None:
    """Failed before its first word or after some: one stream with the whole answer, which says who made it."""
    name = f"{wire}-{hazard}-stream"
    raw = stage.chat(name, stream=True, stream_options={"include_usage": True})
    text, reasons, extra = read(raw.parse())
    assert (text, reasons) == (ANSWER, ["stop"])
    assert extra["continued"] == (hazard in MID)
    if hazard in MID:
        assert extra["backends"] == [name, RESCUE[wire]]
    else:
        assert raw.headers["x-exo-attempts"] == f"{name}:{CAUSE[hazard]}, {RESCUE[wire]}:ok"


@pytest.mark.parametrize("hazard", PLAIN)
@pytest.mark.parametrize("wire", WIRES)
def test_a_healthy_backend_gives_the_plain_answer(stage: Stage, wire: str, hazard: str) -> None:
    """Whatever LiteLLM makes of the failure, it is no fault of the request's, and the cause is the true one."""
    name = f"{wire}-{hazard}-plain"
    raw = stage.chat(name)
    assert raw.parse().choices[0].message.content == ANSWER
    assert raw.headers["x-exo-attempts"] == f"{name}:{cause_of(hazard, stream=False)}, {RESCUE[wire]}:ok"


@pytest.mark.parametrize("hazard", SCRIPTS)
@pytest.mark.parametrize("wire", WIRES)
def test_alone_it_is_one_error_with_the_true_cause(stage: Stage, wire: str, hazard: str) -> None:
    """Nobody else to ask: a status before the first word, an event after it."""
    stream = hazard in MID
    name = f"{wire}-{hazard}-alone"
    with pytest.raises(openai.APIError) as caught:
        read(stage.chat(name, stream=stream).parse())
    error, cause = caught.value, cause_of(hazard, stream=stream)
    assert name in error.message
    assert KEY not in repr(error)
    if not isinstance(error, openai.APIStatusError):
        assert (stream, error.code) == (True, f"upstream_{cause}")
        return
    assert error.response.headers["x-exo-attempts"] == f"{name}:{cause}"
    assert error.status_code == {"429": 429, "stall-first": 504}.get(hazard, 502)
    if hazard == "429":
        assert error.response.headers["retry-after"] == "7"


def test_a_worker_that_hangs_holds_no_stream(stage: Stage) -> None:
    """A worker stopped in the middle of an answer is killed and replaced; another backend goes on meanwhile."""
    stage.providers["anthropic"].by_model["hung"] = Script(stall_after=3)
    stopped: list[psutil.Process] = []
    raw = stage.chat("anthropic-hung-stream", stream=True, stream_options={"include_usage": True})
    chunks = iter(raw.parse())
    first = [next(chunks)]
    try:
        for worker in stage.workers():
            worker.suspend()
            stopped.append(worker)
        text, reasons, extra = read([*first, *chunks])
    finally:
        for worker in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.resume()
    assert (text, reasons, extra["backends"]) == (ANSWER, ["stop"], ["anthropic-hung-stream", "healthy-openai"])
    wait_until(lambda: not all(worker in stage.workers() for worker in stopped), 20)
    assert stage.chat("healthy-anthropic").headers["x-exo-attempts"] == "healthy-anthropic:ok"
