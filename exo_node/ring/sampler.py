"""Drawing a token from float32 logits. Stateless but for the counts of tokens, so that a replay draws the same.

Order: logit_bias, then repetition, frequency and presence penalty (as in vLLM's sampler), then temperature, top_k,
top_p, min_p (as transformers orders its warpers). A grammar's mask comes before temperature and wins over all of them.
frequency/presence count generated tokens (OpenAI's formula); repetition counts prompt and generated tokens (CTRL paper,
as transformers does). Ties go to the lowest id.

The draw itself is in draw.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from exo_node.errors import EngineFailed
from exo_node.ring.draw import draw_token, mass, top_indices
from exo_node.ring.noise import Ids
from exo_node.ring.sequences import TokenChoice
from exo_node.types import SamplingParams

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Constraint(Protocol):
    """What may be drawn next (constraint.py). `ended`: nothing any more."""

    ended: bool

    def allowed(self) -> Bools:
        """[vocab], true for at least one token. Raises `ExoError`."""
        ...

    def advance(self, token: int) -> None: ...


class Sampler:
    """The sampling state of one sequence."""

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int] = (),
        generated: Sequence[int] = (),
        constraint: Constraint | None = None,
    ) -> None:
        self._params = params
        self._constraint = constraint
        self._adjusts = bool(params.logit_bias) or params.repetition_penalty != 1.0
        self._adjusts = self._adjusts or params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        self._seen: set[int] = set()
        self._counts: Counter[int] = Counter()
        if self._adjusts:
            self._seen.update(prompt, generated)
            self._counts.update(generated)
        self._bias_ids: Ids = np.fromiter(params.logit_bias.keys(), np.int64)
        self._bias: Floats = np.fromiter(params.logit_bias.values(), np.float32)

    def draw(self, logits: Floats, position: int) -> TokenChoice:
        """The token at absolute `position` (prompt included) given `logits` [vocab]. Does not change `logits`.

        Raises `EngineFailed` where the logits are not numbers, and what the constraint raises.
        """
        adjusted = self._adjust(logits) if self._adjusts else logits
        if self._constraint is not None:
            adjusted = only(adjusted, self._constraint.allowed())
        greedy = self._params.temperature == 0.0
        # argmax takes the first of equals: the lowest id
        token = int(np.argmax(adjusted)) if greedy else draw_token(adjusted, self._params, position)
        if not np.isfinite(adjusted[token]):
            raise EngineFailed("the engine returned logits that are not numbers")
        if self._adjusts:
            self._seen.add(token)
            self._counts[token] += 1
        ended = False
        if self._constraint is not None:
            self._constraint.advance(token)
            ended = self._constraint.ended
        if self._params.top_logprobs is None:
            return TokenChoice(token, ended=ended)
        return _with_logprobs(logits, token, self._params.top_logprobs, ended)

    def _adjust(self, logits: Floats) -> Floats:
        params = self._params
        out = logits.copy()
        if self._bias_ids.size:
            out[self._bias_ids] += self._bias
        if params.repetition_penalty != 1.0 and self._seen:
            ids = np.fromiter(self._seen, np.int64, len(self._seen))
            penalty = np.float32(params.repetition_penalty)
            values = out[ids]
            out[ids] = np.where(values > 0, values / penalty, values * penalty)
        if self._counts and (params.frequency_penalty or params.presence_penalty):
            ids = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            out[ids] -= counts * np.float32(params.frequency_penalty) + np.float32(params.presence_penalty)
        return out


def only(logits: Floats, allowed: Bools) -> Floats:
    """`logits`, but -inf where not `allowed`."""
    # np.where guesses branches, wrong ones for half of a random mask. The sign bit makes -inf of infinity.
    limits = np.logical_not(allowed).astype(np.uint32)
    limits <<= np.uint32(31)
    limits |= np.uint32(0x7F800000)
    return np.asarray(np.fmin(logits, limits.view(np.float32)), np.float32)


def _with_logprobs(logits: Floats, token: int, n_top: int, ended: bool) -> TokenChoice:
    """Log-probabilities of the raw distribution: before bias, penalties and temperature."""
    highest = float(logits.max())
    norm = highest + math.log(mass(logits, highest, 1.0))
    top: tuple[tuple[int, float], ...] = ()
    if n_top:
        ids = top_indices(logits, min(n_top, logits.size))
        ids = ids[np.argsort(-logits[ids], kind="stable")]
        top = tuple((int(one), float(logits[one]) - norm) for one in ids)
    return TokenChoice(token, float(logits[token]) - norm, top, ended)
