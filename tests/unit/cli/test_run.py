"""`exo run`: one answer, or a chat."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exo_node.cli.main import dispatch
from exo_node.errors import ModelNotFound, PeerUnavailable
from exo_node.types import GenerationRequest, TokenDelta, Usage
from tests.unit.api.scripted import END, ScriptedBackend, ScriptedCluster, Step
from tests.unit.api.scripted_routing import ScriptedRouting
from tests.unit.cli.conftest import StartNode

ROOT = Path(__file__).resolve().parents[3]


def hear_interrupts() -> None:
    """In a child: a shell has those that it starts in the background ignore Ctrl-C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def said(request: GenerationRequest) -> list[Step]:
    """An answer that repeats the last message and says how many there were."""
    messages = request.messages or ()
    return [TokenDelta(f"{len(messages)}:"), TokenDelta(str(messages[-1]["content"])), END]


def test_one_answer(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """--prompt prints the answer and a newline; options reach the request."""
    backend = ScriptedBackend(said)
    start_node(backend)
    line = ["run", "demo", "--prompt", "hi", "--max-tokens", "5", "--temperature", "0", "--seed", "7"]
    assert dispatch([*line, "--system-prompt", "Be brief."]) == 0
    assert capsys.readouterr().out == "2:hi\n"
    (request,) = backend.requests
    assert (request.model, request.max_tokens, request.sampling.temperature, request.seed) == ("demo", 5, 0.0, 7)


def test_quantize(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """The model is placed in so many bits before it is asked."""
    cluster = ScriptedCluster()
    start_node(ScriptedBackend([TokenDelta("a", finish_reason="stop")]), cluster)
    assert dispatch(["run", "demo", "--prompt", "hi", "--quantize", "4"]) == 0
    assert [(call["reuse"], call["quantize"]) for call in cluster.calls] == [(True, 4)]
    capsys.readouterr()
    assert dispatch(["run", "demo", "--prompt", "hi", "--quantize", "3"]) == 2
    assert "4 or 8" in capsys.readouterr().err


def test_statistics(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """-v tells tokens and speed on standard error, where they do not disturb."""
    start_node(ScriptedBackend([TokenDelta("a"), TokenDelta("b", finish_reason="length", usage=Usage(3, 2))]))
    assert dispatch(["run", "demo", "--prompt", "hi", "-v"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "ab\n"
    assert "cut at the limit of tokens" in captured.err
    assert "exo: 3 + 2 tokens, first after" in captured.err


@pytest.mark.parametrize("before", [[], [TokenDelta("half")]])
def test_failures(before: list[Step], start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """An error, before or in the middle of the answer, is one line and status 1."""
    error = PeerUnavailable("node b is gone") if before else ModelNotFound("no model 'demo'")
    start_node(ScriptedBackend([*before, error]))
    assert dispatch(["run", "demo", "--prompt", "hi"]) == 1
    captured = capsys.readouterr()
    lost = "the answer broke off after 1 token: " if before else ""
    assert captured.err == f"exo: {lost}{error.message}\n"
    assert captured.out == ("half\n" if before else "")


def test_a_model_without_a_key(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """Says whose key is missing; no model of that name is looked for or fetched for the ring."""
    routing, cluster = ScriptedRouting(), ScriptedCluster()
    routing.rejected = {"auto:openai/gpt-4o": "no key for OpenAI"}
    routing.replies = [PeerUnavailable("no key for OpenAI: set OPENAI_API_KEY")]
    start_node(ScriptedBackend([END]), cluster, routing=routing)
    assert dispatch(["run", "openai/gpt-4o", "--prompt", "hi"]) == 1
    assert capsys.readouterr().err == "exo: no key for OpenAI: set OPENAI_API_KEY\n"
    assert not cluster.topology()["instances"]


def test_chat(start_node: StartNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --prompt, lines are messages of one chat with its history; /clear forgets, /exit ends."""
    backend = ScriptedBackend(said)
    start_node(backend)
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n/clear\nthree\n/exit\nnever\n"))
    assert dispatch(["run", "demo"]) == 0
    assert capsys.readouterr().out == "1:one\n3:two\n1:three\n"
    assert [message["role"] for message in backend.requests[1].messages or ()] == ["user", "assistant", "user"]


def test_settings_of_another_node(start_node: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """A setting that only a starting node can follow is refused when one runs already, not ignored."""
    url = start_node(ScriptedBackend(said))
    assert dispatch(["run", "demo", "--prompt", "hi", "--memory-limit", "1GiB"]) == 2
    assert capsys.readouterr().err.startswith("exo: --memory-limit is for a node that this call would start")
    assert url


def test_words_come_as_they_are_made(start_node: StartNode, exo_home: Path) -> None:
    """Standard output is flushed at every piece; Ctrl-C ends the command with 130 and the sequence on the server."""
    backend = ScriptedBackend([TokenDelta("first "), 60.0, END])
    start_node(backend)
    line = [sys.executable, "-m", "exo_node", "run", "demo", "--prompt", "hi"]
    child = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear_interrupts)
    assert child.stdout is not None
    assert os.read(child.stdout.fileno(), 100) == b"first "
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert (child.returncode, out, err) == (130, b"\n", b"")
    while backend.open:
        time.sleep(0.01)


def test_ctrl_c_in_a_chat_ends_the_answer_only(start_node: StartNode) -> None:
    """On a terminal Ctrl-C stops the running answer, on the server too, and the chat goes on."""
    answers: list[list[Step]] = [[TokenDelta("first "), 60.0, END], [TokenDelta("second"), END]]
    backend = ScriptedBackend(lambda request: answers[len(backend.requests) - 1])
    start_node(backend)
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "exo_node", "run", "demo"],
        cwd=ROOT,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hear_interrupts,
    )
    assert child.stdout is not None
    out = child.stdout.fileno()

    def read_until(words: bytes) -> None:
        seen = b""
        while words not in seen:
            piece = os.read(out, 1000)
            assert piece, (seen, child.stderr and child.stderr.read())
            seen += piece

    try:
        os.write(ours, b"one\n")
        read_until(b"first ")
        child.send_signal(signal.SIGINT)
        os.write(ours, b"two\n")
        read_until(b"second")
        os.write(ours, b"/exit\n")
        _, err = child.communicate(timeout=30)
    finally:
        child.kill()
        os.close(ours)
        os.close(theirs)
    assert child.returncode == 0
    assert b"(stopped)" in err
    assert [message["content"] for message in backend.requests[1].messages or ()] == ["one", "first ", "two"]
    while backend.open:
        time.sleep(0.01)


def test_a_model_that_must_be_loaded_shows_its_progress(
    start_node: StartNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first question the model is made ready; an instance that is there is taken; slow stages are shown."""
    cluster = ScriptedCluster()
    cluster.progress = [
        {"stage": "fetching", "detail": "org/name", "done": 5, "total": 10},
        {"stage": "connecting", "detail": "", "done": 0, "total": 0},
    ]
    start_node(ScriptedBackend(said), cluster)
    assert dispatch(["run", "demo", "--prompt", "x"]) == 0
    out, err = capsys.readouterr()
    assert out == "1:x\n"
    assert "fetching org/name" in err
    assert "connecting" not in err
    assert cluster.calls[0]["reuse"] is True
