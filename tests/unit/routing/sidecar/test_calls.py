"""Bodies and parameters as LiteLLM's arguments."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.routing.sidecar.calls import Upload, arguments, is_steering
from exo_node.routing.sidecar.failures import CallFailed
from exo_node.routing.sidecar.protocol import Target

LITELLMS = frozenset({"api_base", "metadata", "rpm", "num_retries"})
TARGET = Target("d", "anthropic/claude", {"api_key": "k", "temperature": 0.5, "rpm": 5, "num_retries": 3})


def test_the_request_wins_over_defaults() -> None:
    """The deployment's parameters are defaults, the request's fields win, retries are nobody's here."""
    made = arguments("chat", TARGET, {"messages": [], "model": "x", "temperature": 1, "top_k": 3, "n": None}, LITELLMS)
    assert made == {
        "messages": [], "model": "anthropic/claude", "api_key": "k", "temperature": 1, "top_k": 3, "max_retries": 0,
        "num_retries": 0, "_skip_mcp_handler": True,
    }  # fmt: skip


@pytest.mark.parametrize("field", ["api_base", "api_key", "metadata", "aws_secret_access_key", "vertex_project", "_x"])
@pytest.mark.parametrize("inside", [False, True])
def test_steering_is_refused(field: str, inside: bool) -> None:
    """A request cannot say where its call goes or how LiteLLM behaves, also not inside extra_body."""
    more: dict[str, Any] = {"extra_body": {field: 1}} if inside else {field: 1}
    with pytest.raises(CallFailed, match=field) as e:
        arguments("chat", TARGET, {"messages": [], **more}, LITELLMS)
    assert (e.value.failure.status, e.value.failure.param) == (400, field)
    assert is_steering(field, LITELLMS)


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [("chat", {}, "messages"), ("rerank", {"query": "q"}, "documents"), ("transcription", {}, "file"),
     ("chat", {"messages": [], "extra_body": 3}, "extra_body")],
)  # fmt: skip
def test_missing_and_malformed(kind: Any, body: dict[str, Any], field: str) -> None:
    """What a kind of call cannot do without is named."""
    with pytest.raises(CallFailed) as e:
        arguments(kind, TARGET, body, LITELLMS)
    assert e.value.failure.param == field


def test_kinds() -> None:
    """Uploads become a file, encodings are ours, and Ollama's chat embeds under Ollama's other name."""
    made = arguments("transcription", TARGET, {"language": "de"}, LITELLMS, Upload("a.wav", "audio/wav", b"R"))
    assert made["file"] == ("a.wav", b"R", "audio/wav")
    ollama = Target("o", "ollama_chat/llama3")
    made = arguments("embedding", ollama, {"input": ["x"], "encoding_format": "base64"}, LITELLMS)
    assert (made["model"], "encoding_format" in made) == ("ollama/llama3", False)
