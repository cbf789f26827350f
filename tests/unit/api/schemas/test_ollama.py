"""Ollama's bodies as they are declared."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.api.schemas import ollama
from exo_node.api.schemas.core import check
from exo_node.errors import InvalidRequest


@pytest.mark.parametrize("keep_alive", [0, -1, 1.5, "5m", None])
def test_what_clients_send(keep_alive: Any) -> None:
    """Nulls everywhere, either name of the model, and fields that are not declared are taken."""
    sent: dict[str, Any] = {
        "name": "m",
        "messages": None,
        "options": None,
        "format": "",
        "think": None,
        "tools": [],
        "shift": True,
    }
    assert check({**sent, "keep_alive": keep_alive}, ollama.OllamaChatRequest).name == "m"


@pytest.mark.parametrize(
    ("body", "param"),
    [({"messages": "Hi"}, "messages"), ({"options": []}, "options"), ({"top_logprobs": 21}, "top_logprobs")],
)
def test_wrong_types(body: Any, param: str) -> None:
    """They are named."""
    with pytest.raises(InvalidRequest) as caught:
        check({"model": "m", **body}, ollama.OllamaChatRequest)
    assert caught.value.param == param
