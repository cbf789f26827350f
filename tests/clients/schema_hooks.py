"""What schemathesis is told beside a document: which model answers here, and one thing that OpenAI's leaves out.

Loaded by schemathesis in its own environment (SCHEMATHESIS_HOOKS), not by pytest.
"""

from __future__ import annotations

from typing import Any

import schemathesis

SHORT = 16  # tokens of an answer: what is tested is its shape


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Bodies as they are, but for a model that there is, and short answers where the limit is a number."""
    body = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str):
        body["model"] = "demo"
    if isinstance(body.get("source"), str):  # of Ollama's copy
        body["source"] = "demo"
    for limit in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if type(body.get(limit)) is int and body[limit] > SHORT:
            body[limit] = SHORT
    if case.path == "/chat/completions" and not any(name in body for name in ("max_tokens", "max_completion_tokens")):
        body["max_completion_tokens"] = SHORT
    # OpenAI's document knows vectors as arrays only, whatever encoding_format asks for.
    if case.path == "/embeddings" and body.get("encoding_format") == "base64":
        body["encoding_format"] = "float"
    if isinstance(body.get("input"), list) and len(body["input"]) > SHORT:
        del body["input"][SHORT:]
