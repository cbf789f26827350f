"""Several sequences in one pass through a real node: as alone within a margin, and to the bit with --reproducible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.integration.harness import NodeProcess, nodes

PROMPTS = [
    "Once upon a time",
    "The layers of a model",
    "What is 7 + 5?",
    "Exo turns your own computers into one cluster that runs AI models. A model that is too big for one machine",
    "Hello",
    "How do nodes find each other? They " * 12,
    "Who made you?",
    "A ring",
]
TOLERANCE = 4e-4  # of a log-probability: 2e-5 of logits up to 20


@pytest.fixture(scope="module", params=["batched", "row by row"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, str]]:
    """One MLX node, and how it is to decode."""
    arguments = ["--inference-engine", "mlx", "--discovery-module", "none"]
    if request.param == "row by row":
        arguments.append("--reproducible")
    with nodes(tmp_path_factory.mktemp("batched") / "home", arguments) as (one,):
        yield one, request.param


def ask(node: NodeProcess, prompts: Sequence[str], **options: Any) -> list[Any]:
    """The choices of one request with all these prompts: they are in flight together."""
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "logprobs": 2, **options}
    answer = node.client().completions.create(model="demo", prompt=list(prompts), **fields)
    return sorted(answer.choices, key=lambda choice: choice.index)


def head_stats(node: NodeProcess) -> dict[str, Any]:
    (instance,) = node.topology()["instances"]
    status, stats = node.request("GET", f"/v1/instances/{instance['id']}/stats")
    assert status == 200, stats
    found: dict[str, Any] = stats["stages"][0]
    return found


def check_within_margin(together: Any, alone: Any) -> None:
    """The same tokens with nearly the same log-probabilities, up to a step at which the two likeliest nearly tie."""
    got, wanted = together.logprobs, alone.logprobs
    for i, token in enumerate(wanted.tokens):
        first, second = sorted(wanted.top_logprobs[i].values(), reverse=True)[:2]
        if got.tokens[i] != token:
            assert first - second <= 2 * TOLERANCE, (i, token, got.tokens[i])
            return
        assert got.token_logprobs[i] == pytest.approx(wanted.token_logprobs[i], abs=TOLERANCE)
    assert together.text == alone.text


def test_eight_at_once_against_alone(node: tuple[NodeProcess, str]) -> None:
    """Fewer steps than tokens, and each prompt's answer is the one it gets alone: by the margin, or to the bit
    (seeded draws too)."""
    one, mode = node
    alone = [ask(one, [prompt])[0] for prompt in PROMPTS]
    before = head_stats(one)
    together = ask(one, PROMPTS)
    after = head_stats(one)
    assert after["info"]["decode"] == mode
    assert after["steps"] - before["steps"] < (after["tokens"] - before["tokens"]) / 2
    for choice, other in zip(together, alone, strict=True):
        if mode == "batched":
            check_within_margin(choice, other)
        else:
            assert (choice.text, choice.logprobs) == (other.text, other.logprobs)
    if mode == "row by row":
        hot = {"temperature": 0.8, "seed": 5}
        drawn = [choice.logprobs for choice in ask(one, PROMPTS, **hot)]
        assert drawn == [ask(one, [prompt], **hot)[0].logprobs for prompt in PROMPTS]
