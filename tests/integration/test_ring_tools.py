"""Tools in a real runner: every family's template over the bundled model's weights, and calls that broke off."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tokenizers

from exo_node.api.ring_upstream import RingUpstream
from exo_node.config import Settings
from exo_node.models.config import normalise
from exo_node.models.headers import read_json
from exo_node.models.tokenizer import Tokenizer
from exo_node.ring.library import LoadedTokenizer
from exo_node.ring.local_backend import BackendDefaults, LocalBackend
from exo_node.ring.recovering import Recovered
from exo_node.routing.call import Attempt, Call, Partial, UpstreamError
from exo_node.transport.ring_client import RingClient
from exo_node.types import Instance, ModelCard
from tests.chat_templates import TEMPLATES
from tests.integration.runners import INSTANCE, Ring, config, dial, start

DEMO = Path(str(resources.files("exo_node"))) / "models" / "demo"
CONTEXT = 1024
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "n": {"enum": [1, 2]}},
    "required": ["city", "n"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "rain", "parameters": SCHEMA}}]
STOP = {"type": "function", "function": {"name": "stop"}}
ROUND = [
    {"role": "user", "content": "Rain?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "rain", "arguments": '{"city": "Rome"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_a", "content": "No."},
]


class OneRunner:
    """A cluster of one instance: one runner that is head and all. `template` replaces the model's own."""

    def __init__(self, client: RingClient, folder: Path) -> None:
        self._client = client
        self._own = Tokenizer.load(folder)
        self.template: str | None = None

    async def ready_instance(self, model: str) -> Instance:
        return Instance(
            instance_id=INSTANCE, model_id="demo", digest="", assignments=(), addresses=(), coordinator="", epoch=1,
            context=CONTEXT, slots=1, state="ready",
        )  # fmt: skip

    async def tokenizer(self, instance: Instance) -> LoadedTokenizer:
        if self.template is None:
            return LoadedTokenizer(self._own, {})
        backend = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
        special = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
        changed = Tokenizer(backend, special=special, template=self.template, eos_ids=self._own.eos_ids, add_bos=True)
        return LoadedTokenizer(changed, {})

    def client(self, instance: Instance) -> RingClient:
        return self._client

    def models(self) -> list[ModelCard]:
        return []

    async def recover(self, instance: Instance) -> Recovered:
        raise AssertionError("the runner was lost")


@asynccontextmanager
async def ring(tmp_path: Path, folder: Path = DEMO) -> AsyncIterator[tuple[OneRunner, RingUpstream]]:
    layers = normalise(read_json(DEMO / "config.json"))["num_hidden_layers"]
    shard = {"start_layer": 0, "end_layer": layers, "n_layers": layers}
    runner = await start(
        config(folder, 0, 1, model_id="demo", shard=shard, engine="mlx", context=CONTEXT, max_chunk=256)
    )
    client = dial(runner.address)
    try:
        configuration = Ring([runner], [client]).configuration(0, 1)
        configuration.context, configuration.max_chunk = CONTEXT, 256
        await client.configure(configuration)
        one = OneRunner(client, folder)
        yield one, RingUpstream(LocalBackend(one, BackendDefaults(200, None, None)), Settings(home=tmp_path))
    finally:
        await client.close()
        runner.process.terminate()
        await runner.ended()


def attempt(partial: Partial | None = None, **body: Any) -> Attempt:
    body = {"model": "demo", "temperature": 0, "max_tokens": 120, **body}
    call = Call(
        id="c",
        kind="chat",
        model="demo",
        body=body,
        stream=True,
        deadline=float("inf"),
        prompt_tokens=3,
        max_tokens=120,
    )
    return Attempt(call=call, timeout_s=60, partial=partial)


async def deltas(upstream: RingUpstream, asked: Attempt) -> list[tuple[dict[str, Any], tuple[int, ...]]]:
    """(what came: content, arguments, reason; ids) of each batch."""
    found = []
    async with contextlib.aclosing(upstream.stream(asked)) as batches:
        async for batch in batches:
            came: dict[str, Any] = {"content": "", "arguments": "", "names": [], "reason": None}
            for choice in (choice for event in batch.events for choice in event["choices"]):
                came["content"] += choice["delta"].get("content") or ""
                for piece in choice["delta"].get("tool_calls", ()):
                    came["arguments"] += piece["function"]["arguments"]
                    came["names"] += [piece["function"]["name"]] if "id" in piece else []
                came["reason"] = choice["finish_reason"] or came["reason"]
            found.append((came, batch.token_ids))
    return found


@pytest.mark.engine_mlx
async def test_every_family_calls_what_it_must(tmp_path: Path) -> None:
    """With each family's template, after a round of tools: a named or required call's arguments match its schema,
    and no text beside it."""
    named = {"type": "function", "function": {"name": "rain"}}
    async with ring(tmp_path) as (one, upstream):
        for index, (name, (template, _)) in enumerate(TEMPLATES.items()):
            if name in ("r1", "gpt-oss"):
                continue  # thoughts are free, and this model's have no end; gpt-oss' end of them is its end of text
            one.template = template
            choice, quiet = (named, "required")[index % 2], {"enable_thinking": False} if name == "qwen3" else {}
            body: dict[str, Any] = {"messages": ROUND, "tools": [*TOOLS, STOP], "tool_choice": choice, **quiet}
            answer = (await upstream.whole(attempt(parallel_tool_calls=False, **body))).data
            assert answer is not None
            (made,) = answer["choices"]
            assert made["finish_reason"] == "tool_calls", (name, made)
            (call,) = made["message"]["tool_calls"]
            assert made["message"]["content"] is None, name
            function = call["function"]
            assert function["name"] == "rain" or choice == "required"
            wanted = SCHEMA if function["name"] == "rain" else {"type": "object"}
            jsonschema.validate(json.loads(function["arguments"]), wanted)


@pytest.mark.engine_mlx
async def test_a_call_that_broke_off_goes_on(tmp_path: Path) -> None:
    """Cut after any token, the rest of the very same call follows: no name twice, the arguments complete."""
    body: dict[str, Any] = {
        "messages": ROUND[:1],
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "rain"}},
    }
    async with ring(tmp_path) as (_, upstream):
        whole = await deltas(upstream, attempt(**body))
        text = "".join(came["arguments"] for came, _ in whole)
        jsonschema.validate(json.loads(text), SCHEMA)
        ids = tuple(token for _, some in whole for token in some)
        for cut in range(1, len(ids), 3):
            rest = await deltas(upstream, attempt(Partial("", ids[:cut], cut), **body))
            left = "".join(came["arguments"] for came, _ in rest)
            names = [name for came, _ in rest for name in came["names"]]
            assert text.endswith(left), f"cut after {cut} tokens"
            assert names == (["rain"] if left == text else []), f"cut after {cut} tokens"
            assert "".join(came["content"] for came, _ in rest) == ""
            assert rest[-2][0]["reason"] == "tool_calls"
        for cut in range(1, len(whole) - 1, 4):  # between two events of the stream: nothing twice, nothing missing
            had = tuple(token for _, some in whole[:cut] for token in some)
            both = whole[:cut] + await deltas(upstream, attempt(Partial("", had, len(had)), **body))
            assert "".join(came["arguments"] for came, _ in both) == text, f"cut after {len(had)} tokens"
            assert [name for came, _ in both for name in came["names"]] == ["rain"]


@pytest.mark.engine_mlx
@pytest.mark.parametrize("template", ["plain", "qwen", "magistral"])
async def test_a_call_of_the_models_own_accord_matches_its_schema(tmp_path: Path, template: str) -> None:
    """Nothing forces a call; where the answer has come to its mark, the rest is one, whatever the model would say."""
    body: dict[str, Any] = {"tools": [*TOOLS, STOP], "parallel_tool_calls": False, "temperature": 1, "seed": 3}
    async with ring(tmp_path) as (one, upstream):
        one.template = TEMPLATES[template][0]
        mark = {"magistral": "[TOOL_CALLS]"}.get(template, "<tool_call>")
        for question in ("What is <tool_call>?", "Rain?"):
            asked = {**body, "messages": [{"role": "user", "content": question}]}
            plain = (await upstream.whole(attempt(None, **asked, max_tokens=20))).data
            assert plain is not None
            assert plain["choices"][0]["message"]["content"]
            ids = tuple(Tokenizer.load(DEMO).encode(f"Well. {mark}", add_special_tokens=False))
            rest = await deltas(upstream, attempt(Partial("Well.", ids, len(ids)), **asked))
            (name,) = [name for came, _ in rest for name in came["names"]]
            arguments = json.loads("".join(came["arguments"] for came, _ in rest))
            jsonschema.validate(arguments, SCHEMA if name == "rain" else {"type": "object", "maxProperties": 0})
            assert "".join(came["content"] for came, _ in rest) == ""
            assert [came["reason"] for came, _ in rest if came["reason"]] == ["tool_calls"]


@pytest.mark.engine_mlx
async def test_a_schema_that_cannot_be_held(tmp_path: Path) -> None:
    """Such a tool is offered all the same, unless it is strict: then the answer is a 400 that names the keyword."""
    odd = {"type": "function", "function": {"name": "odd", "parameters": {"properties": {"a": {"not": {}}}}}}
    ids = tuple(Tokenizer.load(DEMO).encode("<tool_call>", add_special_tokens=False))
    async with ring(tmp_path) as (_, upstream):
        body = {"messages": ROUND[:1], "tools": [odd], "parallel_tool_calls": False, "max_tokens": 40}
        rest = await deltas(upstream, attempt(Partial("", ids, len(ids)), **body))
        assert [name for came, _ in rest for name in came["names"]] == ["odd"]
        odd["function"]["strict"] = True  # type: ignore[index]
        with pytest.raises(UpstreamError, match=r"tools: the keyword not at /properties/a is not supported") as caught:
            await deltas(upstream, attempt(None, **body))
        assert (caught.value.status, caught.value.param) == (400, "tools")


@pytest.mark.engine_mlx
async def test_marks_that_are_special_tokens(tmp_path: Path) -> None:
    """Where the mark of calls is one special token, as in Mistral's models, it is forced and read as that."""
    folder = tmp_path / "model"
    shutil.copytree(DEMO, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = folder / name
        file.write_text(file.read_text().replace("<|pad|>", "[TOOL_CALLS]"))
    own = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**own, "chat_template": TEMPLATES["mistral"][0]}))
    async with ring(tmp_path, folder) as (_, upstream):
        body = {"messages": ROUND, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
        answer = (await upstream.whole(attempt(None, **body))).data
    assert answer is not None
    (made,) = answer["choices"]
    assert (made["finish_reason"], made["message"]["content"]) == ("tool_calls", None)
    jsonschema.validate(json.loads(made["message"]["tool_calls"][0]["function"]["arguments"]), SCHEMA)


@pytest.mark.engine_mlx
async def test_thoughts(tmp_path: Path) -> None:
    """A template that opens the thoughts: they are told apart and counted; an answer known only by its text goes on
    after them, and one known by its tokens goes on within them."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is exo?"}],
        "logit_bias": {"2": -100},
    }  # no end
    async with ring(tmp_path) as (one, upstream):
        one.template = TEMPLATES["r1"][0]
        answer = (await upstream.whole(attempt(None, **body, max_tokens=12))).data
        assert answer is not None
        (made,) = answer["choices"]
        assert (made["message"]["content"], made["finish_reason"]) == ("", "length")
        thought = made["message"]["reasoning_content"]
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 12
        after = (await upstream.whole(attempt(Partial("Exo is"), **body, max_tokens=6))).data
        assert after is not None
        assert after["choices"][0]["message"]["content"]
        assert "reasoning_content" not in after["choices"][0]["message"]
        ids = [token async for batch in upstream.stream(attempt(None, **body, max_tokens=12))
               for token in batch.token_ids]  # fmt: skip
        within = (await upstream.whole(attempt(Partial("", tuple(ids[:5]), 5), **body, max_tokens=7))).data
        assert within is not None
        assert thought.endswith(within["choices"][0]["message"]["reasoning_content"])
