"""A completion's prompt, given back: its text, and its tokens with the probabilities that the head has told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from exo_node.errors import RingBroken
from exo_node.models.tokenizer import Tokenizer
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import GenerationRequest, TokenDelta, TokenLogprob


class PromptEcho:
    """Hears every message of the head; `ahead` puts what the request asks for on the first delta."""

    def __init__(self, request: GenerationRequest, tokenizer: Tokenizer, ids: Sequence[int]) -> None:
        self._request, self._tokenizer, self._ids = request, tokenizer, ids
        self._entries: list[ring_pb2.TokenLogprobs] = []
        self._due = request.echo or request.prompt_logprobs is not None

    @property
    def length(self) -> int:
        """Characters of the prompt that the answer begins with."""
        return len(self._text()) if self._request.echo else 0

    def hear(self, delta: ring_pb2.GenerateDelta) -> None:
        self._entries.extend(delta.prompt_logprobs)

    def ahead(self, delta: TokenDelta) -> TokenDelta:
        """The delta, with the prompt if it is the first."""
        if not self._due:
            return delta
        self._due = False
        echoed: tuple[TokenLogprob, ...] = ()
        if self._request.prompt_logprobs is not None:
            if len(self._entries) != len(self._ids) - 1:
                raise RingBroken(f"the head told of {len(self._entries)} of {len(self._ids) - 1} tokens of the prompt")
            echoed = self._tokens()
        return replace(delta, echo=self._text() if self._request.echo else "", echoed=echoed)

    def _text(self) -> str:
        prompt = self._request.prompt
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(self._ids)

    def _tokens(self) -> tuple[TokenLogprob, ...]:
        first = ring_pb2.TokenLogprobs(logprob=math.nan)
        text = self._tokenizer.detokenizer()
        found, offset = [], 0
        for token_id, entry in zip(self._ids, (first, *self._entries), strict=True):
            found.append(replace(token_logprob(self._tokenizer, token_id, entry), offset=offset))
            offset += len(text.push((token_id,)))
        return tuple(found)


def token_logprob(tokenizer: Tokenizer, token_id: int, entry: ring_pb2.TokenLogprobs) -> TokenLogprob:
    """A token with its probability and the likeliest ones, as texts."""
    return TokenLogprob(
        tokenizer.token_text(token_id),
        token_id,
        entry.logprob,
        tokenizer.token_bytes(token_id),
        tuple(
            (tokenizer.token_text(top_id), tokenizer.token_bytes(top_id), logprob)
            for top_id, logprob in zip(entry.top_ids, entry.top_logprobs, strict=True)
        ),
    )
