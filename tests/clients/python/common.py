"""What the clients' programs share: the questions, and a loop that runs the scenarios that stdin names.

A program prints one JSON line when it is up, {"package", "scenarios"}, and one for each line that it reads,
{"scenario", "url", "model", "key"}: {"facts": ...}, or {"error": traceback}. It runs in the client's own environment
and knows nothing of the project; what the facts must be, tests/clients/contract.py says.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

INPUTS: dict[str, Any] = json.loads((Path(__file__).resolve().parent.parent / "inputs.json").read_text())
MESSAGES: list[Any] = [{"role": "user", "content": INPUTS["question"]}]
TOOL_MESSAGES: list[Any] = [{"role": "user", "content": INPUTS["tool_question"]}]
# As the Chat API, Ollama and LiteLLM take a tool.
TOOL: Any = {
    "type": "function",
    "function": {
        "name": INPUTS["tool_name"],
        "description": INPUTS["tool_description"],
        "parameters": INPUTS["schema"],
    },
}


@dataclass(frozen=True)
class Target:
    """Whom to ask: the node's address without a path, a model, the key."""

    url: str
    model: str
    key: str

    def but(self, **changed: str) -> Target:
        return Target(**{**self.__dict__, **changed})


Scenario = Callable[[Target], Any]


def main(package: str, scenarios: Mapping[str, Scenario]) -> None:
    """Serve scenarios until the end of standard input; one may be a coroutine function."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    hello = {"package": f"{package} {version(package)}", "scenarios": sorted(scenarios)}
    print(json.dumps(hello), file=answers, flush=True)
    with asyncio.Runner() as runner:  # one loop for all: some packages keep connections beyond a call
        for line in sys.stdin:
            asked = json.loads(line)
            scenario = scenarios[asked.pop("scenario")]
            try:
                facts = scenario(Target(**asked))
                answer = {"facts": runner.run(facts) if isinstance(facts, Coroutine) else facts}
            except Exception:
                answer = {"error": traceback.format_exc(limit=3, chain=False)}
            print(json.dumps(answer), file=answers, flush=True)


def failure(call: Callable[[], Any]) -> dict[str, Any]:
    """What a call that must fail raises: its classes, HTTP status, text."""
    try:
        answer = call()
    except Exception as e:
        return {
            "kind": [one.__name__ for one in type(e).__mro__],
            "status": getattr(e, "status_code", None),
            "message": str(e),
        }
    return {"kind": [], "status": None, "message": repr(answer)}


def refusals(target: Target, ask: Callable[..., Any], retrieve: Callable[[], Any]) -> dict[str, Any]:
    """What a node says no to. `ask(target, **fields)` sends a request; `retrieve` asks for no model."""
    return {
        "unknown": failure(lambda: ask(target.but(model="no-such-model"))),
        "unknown_stream": failure(lambda: ask(target.but(model="no-such-model"), stream=True)),
        "bad": failure(lambda: ask(target, messages=[])),
        "key": failure(lambda: ask(target.but(key="sk-wrong"))),
        "retrieve": failure(retrieve),
    }


def whole(answer: Any) -> dict[str, Any]:
    """Facts of an answer that has the Chat API's shape."""
    return {
        "text": answer.choices[0].message.content,
        "finish": answer.choices[0].finish_reason,
        "tokens_in": answer.usage.prompt_tokens,
        "tokens_out": answer.usage.completion_tokens,
    }
