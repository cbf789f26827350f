#!/usr/bin/env python3
"""A chat's second turn against its first: time to the first token of each, over HTTP.

    scripts/bench/prefix.py [--engine mlx|tinygrad] [--prompt 2000] [--rounds N] [--threads N] [--keep FOLDER] [--fast]

The first turn is a chat of `--prompt` tokens, the second the same with its answer and a short question more. `ratio` is
the second's time to the first token over the first's (bar 0.15), the median over chats that have nothing in common; for
contrast `without` is the same of a node that runs with `--no-prefix-cache`. `cached_tokens` is what the second turn's
usage says of its prompt.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import references
from bench_nodes import NodeProcess, made, nodes, place, stream


def turn(node: NodeProcess, model: str, messages: list[dict[str, str]]) -> tuple[float, str, dict[str, Any]]:
    """(seconds to the first token, the answer, the usage)."""
    body = {"model": model, "messages": messages, "max_tokens": 16, "temperature": 0, "logprobs": True}
    # Letters, each a token: a random model's own words would come back as other tokens in the second turn's prompt.
    body |= {"stream_options": {"include_usage": True}, "guided_regex": "[a-z]{16}"}
    stamps, events = stream(node, "/v1/chat/completions", body)
    texts = []
    first = 0.0
    for stamp, event in zip(stamps, events, strict=True):
        for choice in event["choices"]:
            if (choice.get("logprobs") or {}).get("content"):
                first = first or stamp
            texts.append(choice["delta"].get("content") or "")
    return first, "".join(texts), events[-1]["usage"]


def chats(node: NodeProcess, model: str, prompt: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Both turns of each chat; bytes are tokens of the made tokenizer."""
    numbers = random.Random(seed)
    found = []
    for _ in range(rounds):
        words = "".join(chr(numbers.randrange(97, 123)) for _ in range(prompt))
        messages = [{"role": "user", "content": words}]
        first, answer, usage = turn(node, model, messages)
        time.sleep(0.2)  # nobody asks the next question at once; what the first turn left to do is done
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And what came then?"}]
        second, _, after = turn(node, model, messages)
        found.append(
            {
                "first_s": first,
                "second_s": second,
                "prompt_tokens": [usage["prompt_tokens"], after["prompt_tokens"]],
                "cached_tokens": after["prompt_tokens_details"]["cached_tokens"],
            }
        )
    return found


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    ratios = [one["second_s"] / one["first_s"] for one in found]
    return {
        "ratio": round(statistics.median(ratios), 4),
        "ratio_max": round(max(ratios), 4),
        "first_s": round(statistics.median(one["first_s"] for one in found), 4),
        "second_s": round(statistics.median(one["second_s"] for one in found), 4),
        "prompt_tokens": found[-1]["prompt_tokens"],
        "cached_tokens": found[-1]["cached_tokens"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="mlx")
    parser.add_argument("--prompt", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--keep", type=Path, help="folder for the checkpoint (default: a temporary one)")
    parser.add_argument("--fast", action="store_true", help="a small model, a short chat: shows that it runs")
    options = parser.parse_args()
    if options.fast:
        options.prompt, options.rounds, options.threads = 500, 1, 1
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = made(options.keep or work / "models", options.fast)
        for name, more in (("with", []), ("without", ["--no-prefix-cache"])):
            arguments = ["--inference-engine", options.engine, "--models-dir", str(folder.parent), *more]
            arguments += ["--discovery-module", "none", "--max-context", "4096", "--max-sequences", "4"]
            with nodes(work / name, arguments, env=references.threads_of(options.threads)) as (node,):
                place(node, folder.name, [node.node_id])
                chats(node, folder.name, 100, 1, 0)  # warm
                found[name] = summary(chats(node, folder.name, options.prompt, options.rounds, 1))
    line = {"bench": "prefix: time to first token, second turn / first", "bar": 0.15, **found["with"]}
    line |= {"without": found["without"], "engine": options.engine, "rounds": options.rounds}
    print(json.dumps(line | {"threads": options.threads}))


if __name__ == "__main__":
    main()
