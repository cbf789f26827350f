"""A grammar as masks over a model's vocabulary, by llguidance. Runners only, and there only from the first grammar on:
the library takes 10 MB, a vocabulary of 128k tokens some 100 MB and a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, Final

import llguidance
import numpy as np
import numpy.typing as npt

from exo_node.errors import CheckpointError, InvalidRequest
from exo_node.models.tokenizer import Tokenizer
from exo_node.ring.grammar_text import limits, refusal, to_llguidance
from exo_node.types import Grammar

Bools = npt.NDArray[np.bool_]

LONGEST_TOKEN: Final = 900  # bytes; the library panics above 1,000, and nobody needs such a token to write an answer


class _Wrapped:
    """Our tokenizer as llguidance wants one: every token's bytes as our detokenizer shows them."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        known = (tokenizer.token_bytes(token) for token in range(vocab_size))
        self.tokens = [text if len(text) <= LONGEST_TOKEN else b"" for text in known]  # b"" matches nothing
        self._special = tokenizer.special_ids
        self.special_token_ids = sorted(token for token in self._special if token < vocab_size)
        self.eos_token_id = min(tokenizer.eos_ids)
        self.bos_token_id = tokenizer.bos_id
        self._tokenizer = tokenizer
        self.greedy: Any = None  # the same vocabulary cut by the longest match, set when it is built

    def __call__(self, text: str) -> list[int]:
        """Ids whose bytes are exactly the text's, which llguidance offers where the grammar leaves no choice."""
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        known = all(token < len(self.tokens) for token in ids) and self._special.isdisjoint(ids)
        if known and b"".join(self.tokens[token] for token in ids) == text.encode():
            return ids
        cut: list[int] = self.greedy(text)  # SentencePiece puts a space before a text; a sign's name is no sign here
        return cut


class Vocabulary:
    """A model's tokens as grammars see them: `vocab_size` of them, the width of the logits."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """Raises `InvalidRequest` for a tokenizer that no grammar can work with."""
        eos = sorted(token for token in tokenizer.eos_ids if token < vocab_size)
        if not eos:
            raise _unusable("its files name no end-of-text token")
        wrapped = _Wrapped(tokenizer, vocab_size)
        try:
            self._tokenizer = llguidance.LLTokenizer(wrapped, n_vocab=vocab_size, eos_token=eos)  # type: ignore[arg-type]
        # A panic of the library is a BaseException, and must cost one request, not the runner.
        except BaseException as error:
            if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
                raise
            raise _unusable(f"llguidance cannot read its vocabulary: {error}") from None
        wrapped.greedy = self._tokenizer.greedy_tokenize
        self.size = vocab_size

    @classmethod
    def load(cls, folder: Path, vocab_size: int) -> Vocabulary:
        """The vocabulary of the model in `folder`. Blocking. Raises `InvalidRequest` without a fast tokenizer."""
        try:
            tokenizer = Tokenizer.load(folder)
        except CheckpointError as error:
            raise _unusable(error.message) from error
        return cls(tokenizer, vocab_size)

    def compile(self, grammar: Grammar, *, flexible: bool = False) -> llguidance.LLMatcher:
        """A matcher at the grammar's start. Blocking, but lets other threads run. Raises `InvalidRequest`."""
        try:
            text = to_llguidance(grammar, flexible=flexible)
        except ValueError as error:
            raise refusal(grammar, str(error)) from error
        matcher = llguidance.LLMatcher(self._tokenizer, text, log_level=0, limits=limits())
        if matcher.is_error():
            raise refusal(grammar, matcher.get_error())
        return matcher


def _unusable(why: str) -> InvalidRequest:
    problem = f"this model's answers cannot be bound to a grammar: {' '.join(why.split())}"
    return InvalidRequest(problem, param="response_format", code="unsupported_parameter")


class Constraint:
    """One answer on its way through a grammar. `executor` computes masks while the model computes logits.

    Used by one thread at a time; `ended`: nothing may follow what has been drawn.
    """

    def __init__(self, matcher: llguidance.LLMatcher, size: int, grammar: Grammar, executor: Executor) -> None:
        self._matcher = matcher
        self._grammar = grammar
        self._size = size
        self._executor = executor
        self._bits = np.zeros((size + 31) // 32, np.int32)
        self._mask: Future[Bools] | None = None
        self.ended = False

    def begin(self, ids: Sequence[int]) -> bool:
        """Go over what is there of the answer already; False where the grammar does not allow it."""
        fits = not ids or self._matcher.try_consume_tokens(list(ids)) == len(ids)
        if fits:
            self._next()
        return fits

    def allowed(self) -> Bools:
        """Which tokens may come next: [size]. Raises `InvalidRequest` where there is none or the work has a limit."""
        assert self._mask is not None
        return self._mask.result()

    def advance(self, token: int) -> None:
        """Take the token that was drawn from what `allowed` has told. Raises where this work has reached its limit."""
        assert self._mask is not None and self._mask.done()
        if not self._matcher.consume_token(token):
            raise refusal(self._grammar, self._problem())
        self._next()

    def _next(self) -> None:
        self.ended = self._matcher.is_stopped()
        if not self.ended:
            self._mask = self._executor.submit(self._compute)

    def _compute(self) -> Bools:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise refusal(self._grammar, self._problem())
        return np.unpackbits(self._bits.view(np.uint8), bitorder="little", count=self._size).view(np.bool_)

    def _problem(self) -> str:
        problem = self._matcher.get_error()
        return "it allows no answer" if problem.startswith("NoExtension") else problem
