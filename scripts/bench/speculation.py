#!/usr/bin/env python3
"""Speculation (prompt-lookup drafts) on trained models at hops of 0, 5 and 20 ms: tokens/s with over without.

    scripts/bench/speculation.py [--stages 3] [--rounds N] [--engine mlx|tinygrad] [--delays 0,5,20] [--fast]

Real runner processes in a ring; every byte between them goes through a relay that holds it for so long. Two rings, one
that drafts and one that does not, take turns. Greedy; both must give the same tokens. Texts that repeat:

- `demo`, the bundled model: a chat whose questions have all been asked and answered before, so it says it all again;
- `stories260K` (where ../shared/models has it): its own story three times, then its beginning; it copies half of it.

`formula` is PEERS.md 4's E / T_tok(g + 1) over 1 / T_tok(1), looking up drafts being free: E tokens a row, g drafts a
row as measured (their acceptance a solves E = (1 - a^(g+1)) / (1 - a)); T_tok(1) is a token's time without speculation,
T_tok(k) that and what a prompt of k tokens takes longer than one of a single token. `ratio` is the measured speed-up
over it (bar 0.9); `formula_best` is the formula at the depth that suits this acceptance best. One JSON line each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench_nodes import ROOT, SHARED_MODELS
from runner_ring import BenchRing, runner_ring

from exo_node.models.tokenizer import Tokenizer
from exo_node.ring.scheduler import expected_tokens
from tests.integration import runners

DEMO = ROOT / "exo_node" / "models" / "demo"
QUESTIONS = ("What is exo?", "Tell me a story about a cat.", "How do I add a second machine?")
DEEPEST = 8
CONTEXT = 512
Prompt = tuple[list[int], int]  # ids, tokens to generate


async def demo_prompts(ring: BenchRing) -> list[Prompt]:
    """Each question again, after a chat with all of them and the model's own answers."""
    tokenizer, messages, found = Tokenizer.load(DEMO), list[dict[str, str]](), list[Prompt]()
    end = json.loads((DEMO / "config.json").read_text())["eos_token_id"]
    for number, question in enumerate(QUESTIONS * 2):
        messages.append({"role": "user", "content": question})
        ids = tokenizer.chat_ids(messages)
        _, answer = await ring.stamps(ids, 100, f"chat-{number}")
        answer = answer[: answer.index(end)] if end in answer else answer
        messages.append({"role": "assistant", "content": tokenizer.decode(answer)})
        if number >= len(QUESTIONS):
            found.append((list(ids), len(answer)))
    return found


async def story_prompts(ring: BenchRing) -> list[Prompt]:
    """From the begin mark alone it tells its story; then three beginnings of that and a fourth one to go on with."""
    _, story = await ring.stamps([1], 80, "story")
    return [([1, *story] * 3 + [1, *story[:30]], 150)]


async def seconds_per_token(ring: BenchRing, prompts: Sequence[Prompt], name: str) -> tuple[float, list[int]]:
    """(seconds between the first token and the last over the tokens between, all tokens)."""
    seconds, count, all_ids = 0.0, 0, list[int]()
    for number, (ids, tokens) in enumerate(prompts):
        stamps, found = await ring.stamps(ids, tokens, f"{name}-{number}")
        seconds, count, all_ids = seconds + stamps[-1] - stamps[0], count + len(found) - 1, all_ids + found
    return seconds / count, all_ids


async def prefill_s(ring: BenchRing, length: int, times: int) -> float:
    """Median seconds of a step that is a prompt of `length` tokens, as the head reports it."""
    found = []
    for number in range(times):
        prompt = [(7 * number + 3 * at) % 200 + 20 for at in range(length)]
        async for delta in ring.clients[0].generate(runners.request(prompt, 1, f"prefill-{length}-{number}")):
            found.append(delta.prefill_us / 1e6)
    return statistics.median(found)


def acceptance(expected: float, depth: float) -> float:
    """The a of E = (1 - a^(g+1)) / (1 - a), by bisection.

    >>> round(acceptance((1 - 0.6**4) / (1 - 0.6), 3), 3)
    0.6
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        value = depth + 1 if middle == 1.0 else (1 - middle ** (depth + 1)) / (1 - middle)
        low, high = (middle, high) if value < expected else (low, middle)
    return (low + high) / 2


def between(points: Sequence[float], at: float) -> float:
    """
    >>> between([1.0, 2.0, 4.0], 1.5)
    3.0
    """
    low = min(int(at), len(points) - 2)
    return points[low] + (at - low) * (points[low + 1] - points[low])


async def measure(with_: BenchRing, without: BenchRing, prompts: list[Prompt], delay: float, rounds: int) -> Any:
    for ring in (with_, without):
        for hop in ring.hops:
            hop.delay = delay
        await seconds_per_token(ring, prompts, f"warm-{delay}")
    before = (await with_.head()).scheduling
    fast: list[float] = []
    slow: list[float] = []
    generated: list[list[int]] = []
    for number in range(rounds):
        for ring, times in ((with_, fast), (without, slow)) if number % 2 else ((without, slow), (with_, fast)):
            seconds, ids = await seconds_per_token(ring, prompts, f"{delay}-{number}")
            times.append(seconds)
            generated.append(ids)
    after = (await with_.head()).scheduling
    prefills = [await prefill_s(without, length, 5 if rounds > 1 else 2) for length in range(1, DEEPEST + 2)]
    token_s = statistics.median(slow)
    trips = [token_s + max(0.0, one - prefills[0]) for one in prefills]  # of rows of 1, 2, ... tokens
    drafted, accepted = (getattr(after, name) - getattr(before, name) for name in ("drafted_tokens", "accepted_tokens"))
    rows = rounds * sum(tokens - 1 for _, tokens in prompts) - accepted
    expected, depth = 1 + accepted / rows, drafted / rows
    found = acceptance(expected, depth)
    formula = expected * token_s / between(trips, depth)
    best = max(expected_tokens(found, deep) * token_s / trips[deep] for deep in range(DEEPEST + 1))
    gain = statistics.median(b / a for a, b in zip(fast, slow, strict=True))
    return {
        "ratio": round(gain / formula, 3),
        "bar": 0.9,
        "speed_up": round(gain, 3),
        "formula": round(formula, 3),
        "formula_best": round(best, 3),
        "acceptance": round(accepted / drafted, 3) if drafted else None,
        "acceptance_in_formula": round(found, 3),
        "drafts_per_row": round(depth, 2),
        "tokens_per_row": round(expected, 2),
        "tokens_per_s": {"with": round(1 / statistics.median(fast), 1), "without": round(1 / token_s, 1)},
        "trip_ms": [round(one * 1e3, 2) for one in trips],
        "same_tokens": all(ids == generated[0] for ids in generated),
    }


async def run(options: argparse.Namespace) -> None:
    models: list[tuple[Path, Callable[[BenchRing], Any]]] = [(DEMO, demo_prompts)]
    if (SHARED_MODELS / "stories260K").is_dir() and not options.fast:
        models.append((SHARED_MODELS / "stories260K", story_prompts))
    for model, prompts_of in models:
        layers = int(json.loads((model / "config.json").read_text())["num_hidden_layers"])
        fields: dict[str, Any] = {"engine": options.engine, "model_id": model.name, "delays": True}
        fields |= {"slots": 2, "context": CONTEXT, "max_chunk": 256}
        async with (
            runner_ring(model, layers, options.stages, **fields, speculation=True) as with_,
            runner_ring(model, layers, options.stages, **fields, speculation=False) as without,
        ):
            prompts = await prompts_of(without)
            for delay in options.delays:
                found = await measure(with_, without, prompts, delay / 1e3, options.rounds)
                line = {"bench": "speculation: speed-up / the formula's", **found, "hop_ms": delay}
                line |= {"model": model.name, "stages": options.stages, "engine": options.engine}
                print(json.dumps(line | {"rounds": options.rounds}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", default="mlx")
    parser.add_argument("--delays", type=lambda text: [float(one) for one in text.split(",")], default=[0, 5, 20])
    parser.add_argument("--fast", action="store_true", help="one round of the bundled model: shows that it runs")
    options = parser.parse_args()
    if options.fast:
        options.rounds, options.delays = 1, [5.0]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small models: threads that wait for each other cost more
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
