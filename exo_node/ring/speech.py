"""How the answer to a prompt is read and bound: what its model's chat template says of thoughts and tools. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from exo_node.models.chat_format import Stage
from exo_node.models.tokenizer import Tokenizer
from exo_node.ring.text import Detokenizer
from exo_node.types import GenerationRequest, Grammar


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's tokens. `stage`: whether it ends before, within or after the model's thoughts. `ends`: what
    ends the answer beside the model's own ends."""

    ids: list[int]
    stage: Stage = "before"
    ends: frozenset[int] = frozenset()


def detokenizer(request: GenerationRequest, tokenizer: Tokenizer, prompt: Prompt) -> Detokenizer:
    """What makes text of the answer's tokens: a completion goes on with its prompt's text; a chat's answer is a
    text of its own, with thoughts and tool calls where the model has any."""
    if request.messages is None:
        return tokenizer.detokenizer(prompt.ids)
    speech = tokenizer.chat_format(request.tool_use)
    reader = speech.reader(lambda: tokenizer.detokenizer(shown=speech.markers), request.tool_use, stage=prompt.stage)
    return tokenizer.detokenizer() if reader is None else reader


def bound(request: GenerationRequest, tokenizer: Tokenizer, prompt: Prompt) -> Grammar | None:
    """What binds the sequence: the request's grammar, the tools that must be called, the thoughts before either."""
    if request.messages is None or (request.grammar is None and request.tool_use is None):
        return request.grammar
    speech = tokenizer.chat_format(request.tool_use)
    return speech.grammar(request.grammar, request.tool_use, tokenizer.special_tokens, stage=prompt.stage)
