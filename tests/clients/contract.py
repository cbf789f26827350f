"""What every client must get from every backend: for each scenario a check of the facts that its program reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema

from tests.clients.stage import INPUTS, Backend

ENDED = {"stop", "end_turn", "completed"}
CALLED = {"tool_calls", "tool_use", "completed", "stop"}  # the Responses API and Ollama have no word for it
KINDS = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError"}


def text(facts: Any, backend: Backend) -> None:
    """The backend's own answer to the letter, its end, and what it took."""
    assert facts["text"] == backend.answer
    assert facts["finish"] in ENDED
    assert facts["tokens_in"] > 0
    assert facts["tokens_out"] > 0


def stream(facts: Any, backend: Backend) -> None:
    """The same, in many pieces."""
    text(facts, backend)
    assert facts["pieces"] > 5
    assert facts.get("same_id", True)


def tools(facts: Any, backend: Backend) -> None:
    """One call of the tool with arguments that its schema allows; a text once it has the result.

    Ollama's API cannot demand a call, and the bundled model is too small to see what a tool is good for: there it may
    do without, and the client goes on with a call that it has made up.
    """
    assert facts["text"]
    if backend.cloud is None and facts.get("may_do_without") and facts["calls"] == 0:
        return
    assert facts["name"] == INPUTS["tool_name"]
    jsonschema.validate(facts["arguments"], INPUTS["schema"])
    assert facts["id"]
    assert facts["calls"] == 1
    assert facts["finish"] in CALLED
    assert facts.get("pieces", 1) > 0


def structured(facts: Any, backend: Backend) -> None:
    """A value of the schema, as the client's own parser gives it."""
    jsonschema.validate(facts["value"], INPUTS["schema"])


def errors(facts: Mapping[str, Any], backend: Backend) -> None:
    """Each fault raises the client's own class for it, with a text that says what is wrong."""
    for fault, status, word in (
        ("unknown", 404, "no-such-model"),
        ("unknown_stream", 404, "no-such-model"),
        ("bad", 400, ""),
        ("key", 401, "key"),
        ("retrieve", 404, "no/such"),
    ):
        if fault not in facts:
            assert fault != "unknown"
            continue
        found = facts[fault]
        assert {KINDS[status], "ResponseError"} & set(found["kind"]), found
        assert found["status"] in (status, None), found
        assert word in found["message"], found


def cancel(facts: Any, backend: Backend) -> None:
    """Something came before the client left; test_clients.py looks at what the backend did then."""
    assert facts["first"]


def timeout(facts: Any, backend: Backend) -> None:
    """It was the client's own."""
    assert any("Timeout" in kind for kind in facts["kind"]), facts


def models(facts: Any, backend: Backend) -> None:
    assert {"demo", "org/cloud", "org/claude"} <= set(facts["ids"])
    assert facts["retrieved"] == backend.model
    if "running" in facts:  # Ollama's list of loaded models: ours
        assert facts["running"] == ["demo"]
        assert facts["copy"] == ["success", 1, True, "success"]


def headers(facts: Any, backend: Backend) -> None:
    text(facts, backend)
    assert facts["headers"]["x-exo-backend"]
    assert facts["headers"]["x-exo-attempts"]


def choices(facts: Any, backend: Backend) -> None:
    """Two answers, each with the log-probability of each of its tokens."""
    assert facts["texts"] == [backend.answer] * 2
    assert facts["indices"] == [0, 1]
    assert facts["tokens"] == facts["texts"]
    assert all(value <= 0 for values in facts["logprobs"] for value in values)


def seed(facts: Any, backend: Backend) -> None:
    """The same seed gives the same text."""
    assert facts["texts"][0] == facts["texts"][1] != ""


def completions(facts: Any, backend: Backend) -> None:
    assert facts["text"] == facts["streamed"] != ""
    assert facts["finish"] in ("stop", "length")


def embeddings(facts: Any, backend: Backend) -> None:
    """A vector for each text, whichever way it was packed."""
    assert len(facts["vectors"]) == len(INPUTS["texts"])
    assert facts["vectors"][0] != facts["vectors"][1]
    for packed, plain in zip(facts["vectors"], facts.get("plain", facts["vectors"]), strict=True):
        assert len(packed) == len(plain) > 1
        assert all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(packed, plain, strict=True))
    assert facts.get("tokens_in", 1) > 0


def broken(facts: Any, backend: Backend) -> None:
    """What had come is kept, and the end is the client's own error, no cut connection."""
    assert facts["text"]
    assert facts["api_error"] in facts["kind"], facts
    assert "scripted error" in facts["message"], facts


def count(facts: Any, backend: Backend) -> None:
    assert facts["tokens"] > 0


def stored(facts: Any, backend: Backend) -> None:
    """What was answered can be read again, until it is deleted."""
    assert facts["text"] == backend.answer
    assert facts["items"] == ["message"]
    assert facts["deleted"]["status"] == 404, facts


CHECKS: dict[str, Callable[[Any, Backend], None]] = {
    "chat": text,
    "stream": stream,
    "tools": tools,
    "structured": structured,
    "errors": errors,
    "cancel": cancel,
    "timeout": timeout,
    "models": models,
    "headers": headers,
    "choices": choices,
    "seed": seed,
    "completions": completions,
    "embeddings": embeddings,
    "retries": text,
    "broken": broken,
    "count": count,
    "bearer": text,
    "stored": stored,
}


def check_of(scenario: str) -> Callable[[Any, Backend], None]:
    """By the scenario's name, or the part of it before `_`: `tools_stream` is checked as `tools` is."""
    return CHECKS.get(scenario) or CHECKS[scenario.partition("_")[0]]
