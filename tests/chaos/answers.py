"""What is asked, and what an answer must be: one well-formed stream with the undisturbed run's bytes. Pure."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.cells import TOKENS

# Margins of log-probabilities below which either token may come; engines differ by 1e-5 or so in float32.
NEAR_TIE = 1e-3
LONG = {"demo": 600, "stories260K": 300}  # tokens of prompts during which something is to break
VOCABULARY = {"demo": (300, 1280), "stories260K": (300, 512)}  # ids of long prompts: plain words, no marks
BANNED = {"demo": range(8), "stories260K": range(3)}  # begin, end and padding: every answer has its full length
TOPICS = ("a dog", "the sea", "exo", "a red ball", "the moon", "a small house", "rain", "my friend")


@dataclass(frozen=True, slots=True)
class Question:
    """One request without `stream`; `sampled` ones are drawn from a seed, the others are greedy."""

    path: str
    body: dict[str, Any]
    sampled: bool


def question(model: str, number: int, *, long: bool, sampled: bool) -> Question:
    """The `number`th question to a model, the same at every call. Chats where the model has a template."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": TOKENS,
        "temperature": int(sampled),
        "seed": number,
        "logit_bias": {str(token): -100 for token in BANNED[model]},
    }
    if long:
        chance = random.Random(number)
        ids = [1, *(chance.randrange(*VOCABULARY[model]) for _ in range(LONG[model]))]
        return Question("/v1/completions", {**body, "prompt": ids}, sampled)
    words = f"Tell me a story about {TOPICS[number % len(TOPICS)]}"
    if model == "demo" and number % 4 > 1:
        return Question("/v1/chat/completions", {**body, "messages": [{"role": "user", "content": words}]}, sampled)
    return Question("/v1/completions", {**body, "prompt": words}, sampled)


@dataclass(frozen=True, slots=True)
class Reference:
    """The undisturbed run. `ends` are the characters after each token, `margins` how far each was ahead of the next."""

    text: str
    prompt_tokens: int
    ends: Sequence[int]
    margins: Sequence[float]

    def margin_at(self, offset: int) -> float:
        """Of the token to which this character belongs."""
        return next((margin for end, margin in zip(self.ends, self.margins, strict=True) if offset < end), 0.0)


def reference(answer: dict[str, Any]) -> Reference:
    """From a plain answer with `logprobs` 5 (`top_logprobs` 5 in a chat)."""
    (choice,) = answer["choices"]
    if choice["finish_reason"] != "length" or answer["usage"]["completion_tokens"] != TOKENS:
        raise AssertionError(f"the undisturbed answer has not its full length: {answer}")
    told = choice["logprobs"]
    if "message" in choice:
        text = choice["message"]["content"]
        rows = [
            (one["token"], one["logprob"], [top["logprob"] for top in one["top_logprobs"]]) for one in told["content"]
        ]
    else:
        text = choice["text"]
        rows = [
            (token, logprob, [*tops.values()])
            for token, logprob, tops in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True)
        ]
    ends, margins, length = [], [], 0
    for token, logprob, tops in rows:
        length += len(token)
        ends.append(length)
        margins.append(min((abs(logprob - other) for other in tops if other != logprob), default=0.0))
    return Reference(text, answer["usage"]["prompt_tokens"], ends, margins)


@dataclass(slots=True)
class Answer:
    """What a client has read of a stream. `stamps` are the seconds (monotonic) of each event with text."""

    text: str = ""
    finish: str = ""
    usage: dict[str, Any] | None = None
    continued: bool = False
    done: bool = False
    stamps: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read(events: Sequence[tuple[float, bytes]]) -> Answer:
    """The data of events with the moment of their arrival; what is not well-formed is in `faults`."""
    answer = Answer()
    ids: set[str] = set()
    for stamp, data in events:
        if answer.done:
            answer.faults.append(f"after [DONE] came {data[:100]!r}")
            break
        if data == b"[DONE]":
            answer.done = True
            continue
        try:
            event = json.loads(data)
        except ValueError:
            answer.faults.append(f"no JSON: {data[:100]!r}")
            continue
        if "error" in event:
            answer.faults.append(f"error: {event['error'].get('message', event['error'])}")
            continue
        ids.add(event["id"])
        if answer.usage is not None:
            answer.faults.append(f"after the usage came {data[:200]!r}")
        if event.get("usage"):
            answer.usage = event["usage"]
            answer.continued = bool(event.get("exo", {}).get("continued"))
        for choice in event["choices"]:
            text = choice["text"] if "text" in choice else choice["delta"].get("content")
            if text:
                if answer.finish:
                    answer.faults.append(f"after its end came {text!r}")
                answer.text += text
                answer.stamps.append(stamp)
            if choice["finish_reason"]:
                if answer.finish:
                    answer.faults.append(f"two ends: {answer.finish}, {choice['finish_reason']}")
                answer.finish = choice["finish_reason"]
    if not answer.done:
        answer.faults.append("no [DONE]")
    if len(ids) > 1:
        answer.faults.append(f"{len(ids)} ids in one stream")
    return answer


def compared(answer: Answer, wanted: Reference, before: int, exact: bool) -> str:
    """What is wrong with a whole answer; "" when it is the undisturbed one, "tie" where it parts from it by right.

    `before` are the characters that the client had when something broke: those never differ.
    """
    if answer.faults:
        return "; ".join(answer.faults)
    if answer.finish != "length":
        return f"ended with {answer.finish!r} instead of 'length'"
    usage = answer.usage or {}
    counted = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    if counted != (wanted.prompt_tokens, TOKENS):
        return f"{counted} tokens of prompt and answer in its usage instead of {(wanted.prompt_tokens, TOKENS)}"
    if answer.text == wanted.text:
        return ""
    same = next(
        (at for at, (ours, theirs) in enumerate(zip(answer.text, wanted.text, strict=False)) if ours != theirs),
        min(len(answer.text), len(wanted.text)),
    )
    place = f"differs from character {same} ({before} were delivered)"
    shown = f"{answer.text[max(0, same - 20) : same + 20]!r} instead of {wanted.text[max(0, same - 20) : same + 20]!r}"
    if exact or same < before:
        return f"{place}: {shown}"
    if (margin := wanted.margin_at(same)) > NEAR_TIE:
        return f"{place} where one token was {margin:.4f} ahead: {shown}"
    return "tie"


def silence(start: float, stamps: Sequence[float], end: float, struck: float) -> float:
    """Longest time, in seconds, without an event that ended after `struck`.

    >>> silence(0.0, [1.0, 5.0, 6.0, 14.0], 14.0, struck=5.5)
    8.0
    """
    moments = [start, *stamps, end]
    return max((b - a for a, b in itertools.pairwise(moments) if b > struck), default=0.0)
