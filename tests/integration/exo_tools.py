"""What exo's own tools `bench/exo_bench.py` and `bench/eval_tool_calls.py` ask of a node, in their order.

Re-stated from the requests that they make, with what they read of each answer; nothing of theirs is copied. They need
exo's own tokenizer and prompts, which are replaced: prompts are sized by `/v1/chat/token/encode`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.integration.harness import NodeProcess, wait_until

Api = str  # "openai", "claude", "responses"


class Refused(Exception):
    """A status of 400 and above, which the tools raise for too."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"HTTP {status}: {body}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Tool:
    """One of exo's tools at work against a node."""

    node: NodeProcess

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.node.request(method, path, body)
        if status >= 400:
            raise Refused(status, answer)
        return answer

    def state(self, path: str) -> Any:
        """A part of the state; None where there is none."""
        try:
            return self.ask("GET", f"/state/{path}")
        except Refused as e:
            if e.status == 404:
                return None
            raise

    # -- both tools

    def resolve(self, model: str, *, add: bool = False) -> tuple[str, str]:
        """(short name, the hub's name): by name, by the hub's name, or added from the hub (--force-download)."""
        rows = self.ask("GET", "/models")["data"]
        for row in rows:
            if row["name"].lower() == model.lower():
                return str(row["name"]), str(row.get("hugging_face_id") or row["name"])
        for row in rows:
            if row.get("hugging_face_id") == model:
                return str(row["name"]), str(row["hugging_face_id"])
        assert add, f"no {model}"
        row = self.ask("POST", "/models/add", {"model_id": model})
        return str(row["name"]), str(row["hugging_face_id"])

    def placements(self, model: str, min_nodes: int = 1, max_nodes: int = 4) -> list[dict[str, Any]]:
        found = []
        for row in self.ask("GET", f"/instance/previews?model_id={quote(model, safe='')}")["previews"]:
            if row["error"] is not None:
                continue
            assert "ring" in row["instance_meta"].lower()
            assert "pipeline" in row["sharding"].lower()
            if min_nodes <= len(assignments(row["instance"])["nodeToRunner"]) <= max_nodes:
                found.append(row)
        return found

    def create(self, instance: dict[str, Any]) -> str:
        """Create it and wait until each runner is ready; its id."""
        ident = str(inner(instance)["instanceId"])
        self.ask("POST", "/instance", {"instance": instance})
        wait_until(lambda: self._ready(ident), 60)
        return ident

    def _ready(self, ident: str) -> bool:
        found = self.state(f"instances/{ident}")
        if found is None:
            return False
        runners = [self.state(f"runners/{one}") or {} for one in assignments(found)["runnerToShard"]]
        assert not any("RunnerFailed" in one for one in runners)
        return all("RunnerReady" in one for one in runners)

    def delete(self, ident: str) -> None:
        """Delete it, and see that it is gone."""
        self.ask("DELETE", f"/instance/{ident}")
        wait_until(lambda: self._gone(ident), 10)

    def _gone(self, ident: str) -> bool:
        try:
            self.ask("GET", f"/instance/{ident}")
        except Refused as e:
            if e.status == 404:
                return True
            raise
        return False

    # -- exo_bench

    def plan_downloads(self, model: str, preview: dict[str, Any]) -> bool:
        """Have every node of the placement download the model; whether any had to."""
        size = next(
            row["storage_size_megabytes"] * 1024 * 1024
            for row in self.ask("GET", "/models")["data"]
            if row["hugging_face_id"] == model
        )
        assert size > 0
        assigned = assignments(preview["instance"])
        missing = [node for node in assigned["nodeToRunner"] if not self._has(node, model)]
        for node in missing:
            disk = self.state(f"nodeDisk/{node}")
            assert disk is None or disk["available"]["inBytes"] >= size
        for node, runner in assigned["nodeToRunner"].items():
            body = {"targetNodeId": node, "shardMetadata": assigned["runnerToShard"][runner]}
            self.ask("POST", "/download/start", body)
        wait_until(lambda: all(self._has(node, model) for node in assigned["nodeToRunner"]), 60)
        return bool(missing)

    def _has(self, node: str, model: str) -> bool:
        rows = self.state(f"downloads/{node}") or []
        failed = [row["DownloadFailed"]["errorMessage"] for row in rows if "DownloadFailed" in row]
        assert not failed, failed
        return any(
            inner(row["DownloadCompleted"]["shardMetadata"])["modelCard"]["modelId"] == model
            and row["DownloadCompleted"]["total"]["inBytes"] > 0
            for row in rows
            if "DownloadCompleted" in row
        )

    def existing(self, model: str) -> str | None:
        """--reuse-instance."""
        for ident, found in self.ask("GET", "/state")["instances"].items():
            if found["MlxRingInstance"]["shardAssignments"]["modelId"] == model:
                return str(ident)
        return None

    def snapshot(self) -> dict[str, Any]:
        names = ("nodeIdentities", "topology", "nodeMemory", "nodeSystem")
        return {name: found for name in names if (found := self.state(name))}

    def prompt(self, model: str, tokens: int) -> str:
        """A prompt of exactly so many tokens, chat template included."""
        text = ""
        while True:
            body = {"model": model, "messages": [{"role": "user", "content": text}]}
            count = self.ask("POST", "/v1/chat/token/encode", body)["num_tokens"]
            if count >= tokens:
                assert count == tokens
                return text
            text += " a"

    def measure(self, model: str, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        """One completion's `generation_stats`, with the text as "text"."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": self.prompt(model, prompt_tokens)}],
            "stream": False,
            "max_tokens": tokens,
            "logprobs": False,
            "use_prefix_cache": False,
            "temperature": 0.0,
        }
        answer = self.ask("POST", "/bench/chat/completions", body)
        return {**answer["generation_stats"], "text": answer["choices"][0]["message"]["content"]}

    def bench(
        self, name: str, sizes: Sequence[tuple[int, int]], *, min_nodes: int = 1, add: bool = False
    ) -> list[dict[str, Any]]:
        """The whole run; a row for each of `sizes` (prompt tokens, tokens) and placement."""
        _, model = self.resolve(name, add=add)
        selected = self.placements(model, min_nodes)
        assert selected
        self.plan_downloads(model, selected[0])
        assert {"nodeIdentities", "topology", "nodeMemory"} <= self.snapshot().keys()
        rows = []
        for preview in selected:
            for old in self.ask("GET", "/state")["instances"]:
                self.ask("DELETE", f"/instance/{old}")
            ident = self.create(preview["instance"])
            assert self.existing(model) == ident
            for node in assignments(preview["instance"])["nodeToRunner"]:
                self.state(f"nodeSystem/{node}")  # sampled while it runs; nothing there is fine
            try:
                rows += [{**self.measure(model, *size), "nodes": node_count(preview)} for size in sizes]
            finally:
                self.delete(ident)
        return rows

    # -- eval_tool_calls

    def evaluate(self, name: str, scenarios: Sequence[Scenario], chat_model: str = "") -> list[tuple[str, Api, bool]]:
        """(scenario, dialect, whether a tool was called) of the first turns, every follow-up checked; the chats go to
        `chat_model` where one is given, else to the placed model."""
        _, model = self.resolve(name)
        instance = self.placements(model)[0]["instance"]
        ident = self.create(instance)
        found = []
        try:
            for scenario in scenarios:
                for api in ("openai", "claude", "responses"):
                    called = scenario.run(self, api, chat_model or model)
                    found.append((scenario.name, api, called))
        finally:
            self.delete(ident)
        return found


@dataclass(frozen=True, slots=True)
class Scenario:
    """A question with a tool at hand; `result` is what the tool says."""

    name: str
    question: str
    result: str
    function: str = "get_weather"

    @property
    def parameters(self) -> dict[str, Any]:
        return {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}

    def run(self, tool: Tool, api: Api, model: str) -> bool:
        """Both turns in one dialect; whether the tool was called. Asserts what the evaluation checks."""
        turns: dict[str, Any] = {"openai": self._openai, "claude": self._claude, "responses": self._responses}
        path, first, read, follow = turns[api](model)
        call, text, finished = read(tool.ask("POST", path, first))
        if call is None:
            assert finished
            assert text
            return False
        assert not finished
        assert call["name"] == self.function
        assert {"location"} <= json.loads(call["arguments"]).keys()
        call, text, finished = read(tool.ask("POST", path, follow(call)))
        assert call is None
        assert finished
        assert text.strip()
        return True

    def _openai(self, model: str) -> tuple[Any, ...]:
        tools = [{"type": "function", "function": self._function("parameters")}]
        ask = {"model": model, "tools": tools, "max_tokens": 16384, "temperature": 0.0}
        messages: list[dict[str, Any]] = [{"role": "user", "content": self.question}]

        def read(answer: Any) -> tuple[Any, str, bool]:
            choice = answer["choices"][0]
            calls = choice["message"].get("tool_calls")
            finish = choice["finish_reason"]
            if calls:
                assert finish == "tool_calls"
                return {"id": calls[0]["id"], **calls[0]["function"]}, "", False
            return None, choice["message"]["content"] or "", finish == "stop"

        def follow(call: Any) -> Any:
            made = {"name": call["name"], "arguments": call["arguments"]}
            said = {"role": "assistant", "tool_calls": [{"id": call["id"], "type": "function", "function": made}]}
            heard = {"role": "tool", "tool_call_id": call["id"], "content": self.result}
            return {**ask, "messages": [*messages, said, heard]}

        return "/v1/chat/completions", {**ask, "messages": messages}, read, follow

    def _claude(self, model: str) -> tuple[Any, ...]:
        ask = {"model": model, "tools": [self._function("input_schema")], "max_tokens": 16384, "temperature": 0.0}
        messages: list[dict[str, Any]] = [{"role": "user", "content": self.question}]

        def read(answer: Any) -> tuple[Any, str, bool]:
            for block in answer["content"]:
                if block["type"] == "tool_use":
                    assert answer["stop_reason"] == "tool_use"
                    return {**block, "arguments": json.dumps(block["input"])}, "", False
            text = "".join(block["text"] for block in answer["content"] if block["type"] == "text")
            return None, text, answer["stop_reason"] == "end_turn"

        def follow(call: Any) -> Any:
            used = {"type": "tool_use", "id": call["id"], "name": call["name"], "input": json.loads(call["arguments"])}
            heard = {"type": "tool_result", "tool_use_id": call["id"], "content": self.result}
            turns = [{"role": "assistant", "content": [used]}, {"role": "user", "content": [heard]}]
            return {**ask, "messages": [*messages, *turns]}

        return "/v1/messages", {**ask, "messages": messages}, read, follow

    def _responses(self, model: str) -> tuple[Any, ...]:
        # The tools are in the shape of chats, as exo's evaluation sends them.
        tools = [{"type": "function", "function": self._function("parameters")}]
        ask = {"model": model, "tools": tools, "temperature": 0.0, "max_output_tokens": 4096}
        items: list[dict[str, Any]] = [{"type": "message", "role": "user", "content": self.question}]

        def read(answer: Any) -> tuple[Any, str, bool]:
            text = ""
            for item in answer["output"]:
                if item["type"] == "function_call":
                    return {**item, "id": item["call_id"]}, "", False
                if item["type"] == "message":
                    text += "".join(part.get("text", "") for part in item["content"])
            return None, text, answer["status"] == "completed"

        def follow(call: Any) -> Any:
            made = {name: call[name] for name in ("call_id", "name", "arguments")}
            heard = {"type": "function_call_output", "call_id": call["call_id"], "output": self.result}
            return {**ask, "input": [*items, {"type": "function_call", **made}, heard]}

        return "/v1/responses", {**ask, "input": items}, read, follow

    def _function(self, schema: str) -> dict[str, Any]:
        return {"name": self.function, "description": "The weather at a place now", schema: self.parameters}


def inner(tagged: dict[str, Any]) -> dict[str, Any]:
    """What stands under the one key of a union's member."""
    (value,) = tagged.values()
    assert isinstance(value, dict)
    return value


def assignments(instance: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = inner(instance)["shardAssignments"]
    return found


def node_count(preview: dict[str, Any]) -> int:
    return len(assignments(preview["instance"])["nodeToRunner"])
