"""What a ring keeps of earlier prompts, as clients are told of it: in every dialect, for one API key and no other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.integration.harness import NodeProcess, nodes
from tests.integration.test_limits import add_key, ready

SYSTEM = "asks, and you answer every question about the exo project in one short sentence, in plain words."
FIRST, SECOND = "What is exo?", "What is a ring?"
HASHES = itertools.count(0xFA690)


class Told(NamedTuple):
    """What an answer says: its text, tokens of the whole prompt, and how many of them were there already."""

    text: str
    prompt: int
    cached: int


Ask = Callable[[Callable[[str, Any], httpx.Response], list[dict[str, str]]], Told]


def of_openai(text: str, usage: Any) -> Told:
    return Told(text, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"])


def chat(post: Any, turns: Any, **more: Any) -> Told:
    answer = post("/v1/chat/completions", {"messages": turns, **more}).json()
    return of_openai(answer["choices"][0]["message"]["content"], answer["usage"])


def two_choices(post: Any, turns: Any) -> Told:
    """A prompt that several choices share counts once."""
    return chat(post, turns, n=2)


def streamed(post: Any, turns: Any) -> Told:
    sent = {"messages": turns, "stream": True, "stream_options": {"include_usage": True}}
    lines = post("/v1/chat/completions", sent).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    return of_openai(text, events[-1]["usage"])


def completion(post: Any, turns: Any) -> Told:
    answer = post("/v1/completions", {"prompt": "".join(turn["content"] for turn in turns)}).json()
    return of_openai(answer["choices"][0]["text"], answer["usage"])


def responses(post: Any, turns: Any) -> Told:
    answer = post("/v1/responses", {"input": turns, "store": False}).json()
    usage = answer["usage"]
    text = answer["output"][0]["content"][0]["text"]
    return Told(text, usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"])


def anthropic(post: Any, turns: Any) -> Told:
    """With the block that Claude Code puts first, another one each time; its API counts the cached apart."""
    header = f"x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch={next(HASHES):x};"
    system = [{"type": "text", "text": text} for text in (header, turns[0]["content"])]
    answer = post("/v1/messages", {"system": system, "messages": turns[1:], "max_tokens": 30}).json()
    usage = answer["usage"]
    read = usage["cache_read_input_tokens"]
    assert usage["cache_creation_input_tokens"] == 0
    return Told(answer["content"][0]["text"], usage["input_tokens"] + read, read)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with nodes(tmp_path_factory.mktemp("home"), ["--discovery-module", "none"]) as (one,):
        yield one


@pytest.fixture(scope="module")
def keys(node: NodeProcess) -> tuple[str, str]:
    made = add_key(node.home, "--name", "ann"), add_key(node.home, "--name", "bob")
    for key in made:
        ready(node, key)
    return made


def posting(node: NodeProcess, key: str) -> Callable[[str, Any], httpx.Response]:
    def post(path: str, body: Any) -> httpx.Response:
        sent = {"model": "demo", "temperature": 0, **body}
        answer = httpx.post(node.api + path, json=sent, headers={"Authorization": f"Bearer {key}"}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer

    return post


@pytest.mark.parametrize("ask", [chat, two_choices, streamed, completion, responses, anthropic])
def test_a_second_turn_pays_for_what_is_new(ask: Ask, node: NodeProcess, keys: tuple[str, str]) -> None:
    """It tells that the first one's prompt was there; with another API key the same words find nothing."""
    ann, bob = (posting(node, key) for key in keys)
    turns = [{"role": "system", "content": f"{ask.__name__} {SYSTEM}"}, {"role": "user", "content": FIRST}]
    first = ask(ann, turns)
    assert first.cached == 0
    turns += [{"role": "assistant", "content": first.text}, {"role": "user", "content": SECOND}]
    second = ask(ann, turns)
    assert first.prompt <= second.cached < second.prompt
    again = ask(bob, turns)
    assert again == (second.text, second.prompt, 0)


def test_ollama_counts_the_whole_prompt(node: NodeProcess, keys: tuple[str, str]) -> None:
    """`prompt_eval_count` is the prompt's length, as with Ollama, whatever was there already."""
    post = posting(node, keys[0])
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": FIRST}]
    counts = [post("/api/chat", {"messages": turns, "stream": False}).json()["prompt_eval_count"] for _ in range(2)]
    found = chat(post, turns)
    assert counts == [found.prompt] * 2
    assert found.cached == found.prompt - 1


def test_a_benchmark_reads_its_whole_prompt(node: NodeProcess, keys: tuple[str, str]) -> None:
    """However often it was sent; with `use_prefix_cache` it finds what chats of the same key have left."""
    post = posting(node, keys[0])
    turns = [{"role": "user", "content": "benchmark " + SYSTEM}]
    prompt = chat(post, turns).prompt
    wishes = [{}, {"use_prefix_cache": False}, {"use_prefix_cache": True}]
    asked = [{"messages": turns, "max_tokens": 2, **one} for one in wishes]
    usages = [post("/bench/chat/completions", body).json()["usage"] for body in asked]
    assert [one["prompt_tokens_details"]["cached_tokens"] for one in usages] == [0, 0, prompt - 1]


def test_what_the_ring_tells_of_it(node: NodeProcess, keys: tuple[str, str]) -> None:
    """Statistics and metrics have the same numbers; keys for other models only are shown neither."""
    post = posting(node, keys[0])
    turns = [{"role": "user", "content": "statistics " + SYSTEM}]
    told = [chat(post, turns), chat(post, turns)]
    assert told[1].cached == told[1].prompt - 1
    limited = add_key(node.home, "--name", "carl", "--models", "other")
    ready(node, limited)
    with httpx.Client(base_url=node.api, headers={"Authorization": f"Bearer {keys[0]}"}) as http:
        (instance,) = http.get("/v1/instances").json()["data"]
        (head,) = http.get(f"/v1/instances/{instance['id']}/stats").json()["stages"]
        metrics = http.get("/metrics").text
        other = {"Authorization": f"Bearer {limited}"}
        assert http.get(f"/v1/instances/{instance['id']}/stats", headers=other).status_code == 403
        assert http.get("/metrics", headers=other).status_code == 403
    found = head["scheduling"]
    assert found["prompt_tokens"] >= found["prefix_hit_tokens"] >= told[1].cached
    assert 0 < found["kv_tokens_used"] <= found["kv_tokens"]
    for name in ("prompt_tokens_total", "prefix_hit_tokens_total", "kv_tokens_used"):
        value = found[name.removesuffix("_total")]
        assert f'exo_ring_{name}{{instance="{instance["id"]}",model="demo"}} {value:.1f}' in metrics
