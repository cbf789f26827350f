"""Scores and vectors of prompts, read piece by piece."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from exo_node.errors import EngineFailed, InvalidRequest
from exo_node.ring.prompt_reading import BLOCK, PooledPrompt, ScoredPrompt, reader_of
from exo_node.ring.sequences import Job, Pooling, Reading

VOCAB, WIDTH = 50, 8
PROMPT = tuple(int(one) for one in np.random.default_rng(1).integers(0, VOCAB, 90))
LOGITS = np.random.default_rng(2).normal(0, 3, (len(PROMPT), VOCAB)).astype(np.float32)
STATES = np.random.default_rng(3).normal(0, 1, (len(PROMPT), WIDTH)).astype(np.float32)


class Outputs:
    """A stage whose activations are slices of the arrays above; remembers how much was asked for at once."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def scores(self, activation: Any, outputs: range) -> Any:
        self.asked.append(len(outputs))
        return LOGITS[activation][outputs.start : outputs.stop]

    def states(self, activation: Any, outputs: range) -> Any:
        return STATES[activation][outputs.start : outputs.stop]


def read(reader: Any, *borders: int) -> list[Any]:
    """The prompt in pieces between the borders; each step holds two outputs of somebody else before ours."""
    stage, found = Outputs(), []
    for start, stop in pairwise(borders):
        rows = [0, 0, *range(start, stop)]
        found.append(reader.read(stage, rows, Reading(1, 2, stop - start, start)))
    assert all(count <= BLOCK for count in stage.asked)
    return found


@pytest.mark.parametrize("borders", [(0, 90), (0, 1, 64, 90), (0, 64, 89, 90)])
def test_scores_are_log_softmax_whatever_the_pieces(borders: tuple[int, ...]) -> None:
    """Token i is told by the output before it; the likeliest come first; the first token has no score."""
    found = [choice for one in read(ScoredPrompt(PROMPT, 2), *borders) for choice in one.choices]
    wide = LOGITS.astype(np.float64)
    exact = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    assert tuple(choice.token for choice in found) == PROMPT[1:]
    for at, choice in enumerate(found):
        assert choice.logprob == pytest.approx(exact[at, PROMPT[at + 1]], abs=1e-6)
        assert [token for token, _ in choice.top] == list(np.argsort(-LOGITS[at], kind="stable")[:2])
        assert [logprob for _, logprob in choice.top] == pytest.approx(np.sort(exact[at])[::-1][:2].tolist(), abs=1e-6)


def test_a_mean_that_begins_anew_is_the_same() -> None:
    """A prompt that had to give its memory up is read from its first token again."""
    reader = PooledPrompt(Pooling("mean"), len(PROMPT))
    read(reader, 0, 40)
    again = read(reader, 0, 64, len(PROMPT))[-1].vector
    assert again == read(PooledPrompt(Pooling("mean"), len(PROMPT)), 0, 64, len(PROMPT))[-1].vector


@pytest.mark.parametrize("dimensions", [0, 3])
def test_mean_and_last_have_length_one(dimensions: int) -> None:
    """The vector comes with the last piece, cut first and then scaled."""
    for mode, exact in (("mean", STATES.astype(np.float64).mean(axis=0)), ("last", STATES[-1].astype(np.float64))):
        found = read(PooledPrompt(Pooling(mode, dimensions), 90), 0, 64, 90)  # type: ignore[arg-type]
        wanted = exact[: dimensions or WIDTH]
        assert found[0].vector == b""
        vector = np.frombuffer(found[1].vector, "<f4")
        np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-7)


def test_what_cannot_be_is_told() -> None:
    """More dimensions than there are is the request's fault, numbers that are none the engine's."""
    with pytest.raises(InvalidRequest, match="vectors have 8") as caught:
        read(PooledPrompt(Pooling("mean", 9), 90), 0, 90)
    assert caught.value.param == "dimensions"

    class Broken(Outputs):
        def scores(self, activation: Any, outputs: range) -> Any:
            return np.full((len(outputs), VOCAB), np.nan, np.float32)

        def states(self, activation: Any, outputs: range) -> Any:
            return np.zeros((len(outputs), WIDTH), np.float32)

    for reader in (ScoredPrompt(PROMPT, 0), PooledPrompt(Pooling("mean"), 90)):
        with pytest.raises(EngineFailed, match="engine returned"):
            reader.read(Broken(), None, Reading(1, 0, 90, 0))


def test_only_what_is_asked_for_is_read() -> None:
    """A plain generation has no reader."""
    assert reader_of(Job(request_id="r", prompt=PROMPT, max_tokens=1)) is None
    assert isinstance(reader_of(Job(request_id="r", prompt=PROMPT, max_tokens=1, prompt_logprobs=0)), ScoredPrompt)
    assert isinstance(
        reader_of(Job(request_id="r", prompt=PROMPT, max_tokens=0, pooling=Pooling("last"))), PooledPrompt
    )
