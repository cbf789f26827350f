#!/usr/bin/env python3
"""How well the bundled `demo` model calls tools: one JSON line.

    scripts/eval_demo_tools.py [--url http://127.0.0.1:52415] [--choice auto|required] [--begun TEXT] [--verbose]

Asks a node (its own one, unless --url names a running one) each of the HELD_OUT questions with three tools, greedily.
Of the answers, those that CALL a tool are counted; a call is VALID when its arguments match the tool's schema (the
grammar makes sure of it), its TOOL is right when the question is that tool's, and it is RIGHT when the arguments are
the question's, too. The model has never seen a tool: its corpus has none (`demo_corpus.py`), so all are
held out, and with tool_choice "auto" it calls none, unless its answer has begun with TEXT ("<tool_call>").
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema

NUMBERS: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "integer", "minimum": 0, "maximum": 99} for name in ("a", "b")},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOPIC: dict[str, Any] = {
    "type": "object",
    "properties": {"topic": {"enum": ["exo", "ring", "shard", "node", "cluster"]}},
    "required": ["topic"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}
    for name, description, schema in (
        ("add", "Add two numbers", NUMBERS),
        ("subtract", "Subtract b from a", NUMBERS),
        ("explain", "Explain a word", TOPIC),
    )
]
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
PAIRS = ((2, 3), (12, 7), (40, 2), (8, 8), (31, 25), (19, 4), (6, 0), (55, 44), (17, 9), (73, 21))
HELD_OUT: list[tuple[str, str, dict[str, Any]]] = [
    *((f"What is {a} + {b}?", "add", {"a": a, "b": b}) for a, b in PAIRS),
    *((f"What is {a} - {b}?", "subtract", {"a": a, "b": b}) for a, b in PAIRS),
    *(
        (question.format(word), "explain", {"topic": word})
        for question in ("What is {}?", "Explain the word {}.")
        for word in TOPIC["properties"]["topic"]["enum"]
    ),
]
START_S = 60


@contextlib.contextmanager
def node() -> Iterator[str]:
    """A node of our own; its API's address."""
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [sys.executable, "-m", "exo_node", "serve", "--api-port", "0"],
            env={**os.environ, "EXO_HOME": home},
            cwd=Path(__file__).resolve().parent.parent,
            stdout=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + START_S
            while not (found := [json.loads(one.read_text()) for one in (Path(home) / "run").glob("*.json")]):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit("the node did not start")
                time.sleep(0.05)
            yield found[0]["api_url"]
        finally:
            process.terminate()
            process.wait()


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def ask(url: str, question: str, choice: str, begun: str) -> tuple[str, Any] | None:
    """(name, arguments) of the function that the model calls, if it does; no arguments where they are no JSON."""
    messages = [{"role": "user", "content": question}]
    if begun:  # Anthropic's API has a place for it
        messages.append({"role": "assistant", "content": begun})
        tools = [{**one["function"], "input_schema": one["function"]["parameters"]} for one in TOOLS]
        body = {
            "model": "demo", "messages": messages, "temperature": 0, "max_tokens": 100,
            "tools": [{name: value for name, value in one.items() if name != "parameters"} for one in tools],
            "tool_choice": {"type": choice.replace("required", "any"), "disable_parallel_tool_use": True},
        }  # fmt: skip
        content = post(f"{url}/v1/messages", body)["content"]
        return next(((one["name"], one["input"]) for one in content if one["type"] == "tool_use"), None)
    body = {
        "model": "demo", "messages": messages, "tools": TOOLS, "tool_choice": choice,
        "parallel_tool_calls": False, "temperature": 0, "max_tokens": 100,
    }  # fmt: skip
    message = post(f"{url}/v1/chat/completions", body)["choices"][0]["message"]
    for call in message.get("tool_calls") or ():
        with contextlib.suppress(ValueError):
            return call["function"]["name"], json.loads(call["function"]["arguments"])
        return call["function"]["name"], None
    return None


def evaluate(url: str, choice: str, begun: str, *, verbose: bool) -> dict[str, Any]:
    calls = valid = tool = right = 0
    for question, name, arguments in HELD_OUT:
        called = ask(url, question, choice, begun)
        if called is None:
            continue
        calls += 1
        valid += jsonschema.Draft202012Validator(SCHEMAS[called[0]]).is_valid(called[1])
        tool += called[0] == name
        right += called == (name, arguments)
        if verbose:
            print(f"{question} -> {called}", file=sys.stderr)
    asked = len(HELD_OUT)
    return {
        "choice": choice, "begun": begun, "questions": asked, "calls": calls, "valid": valid, "tool": tool,
        "right": right, "accuracy": right / asked,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running node's API")
    parser.add_argument("--choice", choices=("auto", "required"), default="required")
    parser.add_argument("--begun", default="", metavar="TEXT")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    with contextlib.nullcontext(options.url) if options.url else node() as url:
        print(json.dumps(evaluate(url, options.choice, options.begun, verbose=options.verbose)))


if __name__ == "__main__":
    main()
