#!/usr/bin/env python3
"""CPU time of turning the ring's deltas into a dialect's events. Prints one JSON line: microseconds per token.

    scripts/bench/encoders.py [--tokens N] [--rounds N]

`text` is an answer in words, one token a delta; `tools` one call whose arguments come token by token; `reasoning` as
many thoughts as words. The other dialects are made of OpenAI's frames, so theirs include those. What is timed is what
the daemon does for each delta: the event, its JSON, its frame. The best of the rounds counts: others share the machine.
`parser_us_per_token` is what the ring's backend spends before on reading an answer of a model that was offered tools
(Hermes' format).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from exo_node.api.dialects.anthropic_response import AnthropicEncoder
from exo_node.api.dialects.base import Encoder
from exo_node.api.dialects.ollama_answer import OllamaEncoder
from exo_node.api.dialects.responses_encoder import ResponsesEncoder
from exo_node.api.dialects.responses_request import Given
from exo_node.api.dialects.responses_request import decode as decode_response
from exo_node.api.openai_request import parse_chat
from exo_node.api.openai_response import Answer
from exo_node.config import Settings
from exo_node.models.toolformats import hermes
from exo_node.models.toolformats.base import Options, ToolFormat
from exo_node.routing.frames import events_in, frame
from exo_node.types import TokenDelta, ToolCallDelta, Usage

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL], "stream": True}
SETTINGS = Settings(home=Path("unused"))
T = TypeVar("T")
Deltas = Sequence[TokenDelta]


def text(count: int) -> Deltas:
    return [TokenDelta(" token", (i,)) for i in range(count)] + [
        TokenDelta(finish_reason="stop", usage=Usage(9, count))
    ]


def tools(count: int) -> Deltas:
    begun = TokenDelta(tool_calls=(ToolCallDelta(0, "call_0123456789abcdefghijABCD", "get_weather"),))
    parts = ['{"city": "', *[" Paris"] * (count - 2), '"}']
    pieces = [TokenDelta("", (i,), tool_calls=(ToolCallDelta(0, arguments=part),)) for i, part in enumerate(parts)]
    return [begun, *pieces, TokenDelta(finish_reason="tool_calls", usage=Usage(9, count))]


def reasoning(count: int) -> Deltas:
    thoughts = [TokenDelta("", (i,), reasoning=" hm") for i in range(count // 2)]
    return [*thoughts, *text(count - count // 2)]


def openai(deltas: Deltas) -> int:
    """Frames of an OpenAI stream; their bytes."""
    answer = Answer(parse_chat(CHAT, "chatcmpl-0", SETTINGS), 1)
    size = sum(len(frame(event)) for event in answer.opening())
    for delta in deltas:
        size += len(b"".join(map(frame, answer.chunks(0, delta))))
    return size + len(frame(answer.usage_chunk()))


def parse(family: ToolFormat, pieces: Sequence[str]) -> int:
    """What the ring's own backend does before: an answer read by the family's parser."""
    parser = family.parser(Options(schemas={"get_weather": {}}))
    for piece in pieces:
        parser.feed(piece)
    return parser.calls


def through(make: Callable[[], Encoder]) -> Callable[[Deltas], int]:
    """A dialect's stream: OpenAI's frames, read again as they come from the adapter, in the dialect's own."""

    def encode(deltas: Deltas) -> int:
        answer, encoder = Answer(parse_chat(CHAT, "chatcmpl-0", SETTINGS), 1), make()
        size = 0
        for events in (answer.opening(), *(answer.chunks(0, delta) for delta in deltas), [answer.usage_chunk()]):
            raw = b"".join(map(frame, events))
            size += len(b"".join(map(encoder.feed, events_in(raw))))
        return size + len(encoder.end())

    return encode


def responses() -> Encoder:
    return ResponsesEncoder(decode_response({"input": "hi", "stream": True}, Given(id="resp_0", created=1)))


ENCODERS: dict[str, Callable[[Deltas], int]] = {
    "openai": openai,
    "responses": through(responses),
    "anthropic": through(lambda: AnthropicEncoder("msg_0", "demo")),
    "ollama": through(lambda: OllamaEncoder("chat", "demo")),
}


def best(work: Callable[[Sequence[T]], int], items: Sequence[T], rounds: int) -> float:
    """Microseconds of CPU per item, of the fastest round."""
    found = []
    for _ in range(rounds):
        began = time.process_time()
        work(items)
        found.append(time.process_time() - began)
    return round(min(found) / len(items) * 1e6, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    kinds = {"text": text, "tools": tools, "reasoning": reasoning}
    measured = {
        name: {kind: best(encode, make(options.tokens), options.rounds) for kind, make in kinds.items()}
        for name, encode in ENCODERS.items()
    }
    words = [" token"] * options.tokens
    call = [*hermes.FRAME.before("get_weather"), *(['{"city": "'] + [" Paris"] * options.tokens + ['"}']), hermes.CLOSE]
    read = {
        kind: best(lambda pieces: parse(hermes.HERMES, pieces), pieces, options.rounds)
        for kind, pieces in (("text", words), ("tools", call))
    }
    print(json.dumps({"cpu_us_per_token": measured, "parser_us_per_token": read, "tokens": options.tokens}))


if __name__ == "__main__":
    main()
