"""What is read off a prompt on its way in: how likely its tokens are, or one vector of the whole.

One object per sequence, fed with the prompt's outputs in order as their steps come home.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from exo_node.errors import EngineFailed, InvalidRequest
from exo_node.ring.draw import top_indices
from exo_node.ring.noise import Doubles, Floats
from exo_node.ring.sequences import Job, Pooling, Reading, TokenChoice

BLOCK = 32  # outputs of one product with the LM head: 16 MB of float32 at a vocabulary of 128k


class Outputs(Protocol):
    """What is needed of `stage.Stage`."""

    def scores(self, activation: Any, outputs: range) -> Floats: ...

    def states(self, activation: Any, outputs: range) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Found:
    """`choices`: the prompt's tokens after those told before; `vector`: little-endian float32, once it is complete."""

    choices: tuple[TokenChoice, ...] = ()
    vector: bytes = b""


class PromptReader(Protocol):
    def read(self, stage: Outputs, activation: Any, reading: Reading) -> Found:
        """Raises `EngineFailed` where the engine's numbers are none, `InvalidRequest`."""
        ...


def reader_of(job: Job) -> PromptReader | None:
    """None where nothing but the next token is wanted."""
    if job.pooling is not None:
        return PooledPrompt(job.pooling, len(job.prompt))
    return None if job.prompt_logprobs is None else ScoredPrompt(job.prompt, job.prompt_logprobs)


class ScoredPrompt:
    """Log-probabilities of the prompt's second token and on, with the `top` likeliest each."""

    def __init__(self, prompt: Sequence[int], top: int) -> None:
        self._prompt, self._top = prompt, top

    def read(self, stage: Outputs, activation: Any, reading: Reading) -> Found:
        choices: list[TokenChoice] = []
        for start in range(0, reading.count, BLOCK):
            first = reading.position + start + 1  # the token that the first of these outputs foretells
            tokens = self._prompt[first : min(first + BLOCK, reading.position + reading.count + 1)]
            if tokens:
                at = reading.output + start
                choices += scored(stage.scores(activation, range(at, at + len(tokens))), tokens, self._top)
        return Found(tuple(choices))


class PooledPrompt:
    """The mean or the last of the prompt's hidden states, cut to its first dimensions, at length 1."""

    def __init__(self, pooling: Pooling, length: int) -> None:
        self._pooling, self._length = pooling, length
        self._sum: Doubles = np.zeros(1)

    def read(self, stage: Outputs, activation: Any, reading: Reading) -> Found:
        states = stage.states(activation, range(reading.output, reading.output + reading.count))
        whole, wanted = states.shape[1], self._pooling.dimensions
        if wanted > whole:
            raise InvalidRequest(f"dimensions is {wanted}; this model's vectors have {whole}", param="dimensions")
        last = self._pooling.mode == "last"
        before = self._sum if reading.position else np.zeros(1)  # at 0 it may begin anew: it had to give its place up
        self._sum = states[-1].astype(np.float64) if last else before + states.sum(axis=0, dtype=np.float64)
        if reading.position + reading.count < self._length:
            return Found()
        kept = self._sum[: wanted or whole]
        norm = float(np.linalg.norm(kept))
        if not np.isfinite(norm) or norm == 0:
            raise EngineFailed("the engine returned hidden states that make no vector")
        return Found(vector=(kept / norm).astype("<f4").tobytes())


def scored(logits: Floats, tokens: Sequence[int], top: int) -> list[TokenChoice]:
    """`tokens[i]` under the distribution of `logits[i]`."""
    highest = logits.max(axis=1, keepdims=True)
    norms = highest[:, 0].astype(np.float64) + np.log(np.exp(logits - highest).sum(axis=1, dtype=np.float64))
    if not np.isfinite(norms).all():
        raise EngineFailed("the engine returned logits that are not numbers")
    found = []
    for row, norm, token in zip(logits, norms.tolist(), tokens, strict=True):
        likely: tuple[tuple[int, float], ...] = ()
        if top:
            ids = top_indices(row.astype(np.float64), min(top, row.size))
            ids = ids[np.argsort(-row[ids], kind="stable")]
            likely = tuple((int(one), float(row[one]) - norm) for one in ids)
        found.append(TokenChoice(token, float(row[token]) - norm, likely))
    return found
