"""Going on with a broken answer elsewhere: what may be continued, by whom, and how two streams become one. Pure.

The client sees one answer: one id, one role, no text twice, one finish_reason, usage that adds up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from exo_node.routing.call import Batch, Begun, Call, Continuation, Partial, Said
from exo_node.routing.frames import events_in, frame, usage_event
from exo_node.routing.plan import Candidate
from exo_node.routing.upstream.transcript import MAX_PARTIAL, Transcript, choices
from exo_node.routing.upstream.wire_request import has_text_prompt
from exo_node.types import Usage

# Providers for whom the partial answer is simply the front of the model's answer: what looks like a repetition is
# meant. Others (a capability that somebody configured, a gateway, an old chat template) may start anew.
_GO_ON = frozenset({"anthropic", "deepseek", "hosted_vllm", "vllm"})
# A new backend that says the end of the partial answer again, rather than going on from it, says at least this much of
# it; shorter meetings of two texts are chance ("ha" after "ha").
MIN_OVERLAP, MAX_OVERLAP = 12, 2000  # characters
_LIMITS = ("max_tokens", "max_completion_tokens")
_CALLS = frozenset({"tool_calls", "function_call"})
_THOUGHTS = frozenset(
    {"reasoning_content", "reasoning", "reasoning_details", "thinking_blocks", "provider_specific_fields"}
)


@dataclass(slots=True)
class Delivered:
    """What the client has of an answer. `ids` are its tokens while rings of `ids_model` alone made it. `model_id` is
    the answering model's (`Candidate.model_id`)."""

    head: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    tokens: int = 0
    exact: bool = True  # `tokens` is counted, not estimated
    ids: tuple[int, ...] = ()
    ids_model: str = ""
    model_id: str = ""
    extras: frozenset[str] = frozenset()

    def add(self, candidate: Candidate, transcript: Transcript, text: str, tokens: int) -> None:
        """A backend's part, of which `text` went out."""
        self.model_id = candidate.model_id
        ring = candidate.kind == "ring" and len(transcript.ids) > 0
        if ring and (not self.text or self.ids_model == candidate.model):
            self.ids, self.ids_model = (*self.ids, *transcript.ids), candidate.model
        elif text:
            self.ids, self.ids_model = (), ""
        self.tokens += len(transcript.ids) if ring else tokens
        self.exact = self.exact and (ring or not text)
        self.text += text
        self.extras |= transcript.extras
        self.head = self.head or transcript.head

    def with_more(self, candidate: Candidate, ids: Sequence[int]) -> Said:
        """Of whom it all is when `candidate` has said `ids` more."""
        ring = candidate.kind == "ring"
        if ring and (not self.text or self.ids_model == candidate.model):
            return Said(self.ids, ids, candidate.model, candidate.model_id)
        return Said((), (), "", candidate.model_id)

    @property
    def only(self) -> str:
        """The only ring model that can go on, since it alone can read the calls begun from their tokens; "" for any."""
        return self.ids_model if self.extras & _CALLS else ""

    def partial(self, candidate: Candidate) -> Partial:
        """For `candidate`: exact ids for a ring of the same model; no trailing blanks for others, some refuse them."""
        if candidate.kind == "ring":
            ids = self.ids if candidate.model == self.ids_model else ()
            return Partial(self.text, ids, self.tokens)
        return Partial(self.text.rstrip(), (), self.tokens)


def delivered_of(begun: Begun, call: Call) -> tuple[Delivered, Transcript]:
    """What another node had sent of the answer to `call`. Raises `UpstreamError` where that is no answer's frames."""
    transcript = Transcript(call, "the node that began the answer")
    events = list(events_in(begun.raw))
    transcript.take(Batch(begun.raw, events, begun.ids))
    text, ring = transcript.text, bool(begun.ids_model)
    tokens = len(begun.ids) or transcript.tokens
    found = Delivered(
        head=transcript.head,
        text=text,
        tokens=tokens,
        exact=ring or not text,
        ids=begun.ids,
        ids_model=begun.ids_model,
        model_id=begun.model_id,
        extras=frozenset(transcript.extras),
    )
    return found, transcript


def closing(delivered: Delivered, transcript: Transcript, used: Usage) -> bytes:
    """What is missing of an answer that has all its text."""
    raw = b""
    if not transcript.complete:
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
        raw = frame({**delivered.head, "choices": [choice]})
    return raw if transcript.usage is not None else raw + frame(usage_event(delivered.head, used, None))


def refusal(call: Call, delivered: Delivered, transcript: Transcript) -> str:
    """Why an answer cannot be continued; "" when it can."""
    if choices(call) > 1:
        return "it has several choices"
    if call.body.get("logprobs") not in (None, False):
        return "it has logprobs"
    if call.body.get("echo"):
        return "it echoes its prompt"
    readable = _CALLS if delivered.ids else frozenset()
    if odd := (delivered.extras | transcript.extras) - _THOUGHTS - readable:
        return f"it holds {', '.join(sorted(odd))}"
    if transcript.characters + len(delivered.text) > MAX_PARTIAL:
        return "it is too long"
    return ""


def may_continue(
    candidate: Candidate, call: Call, mode: Continuation, said: str, model_id: str, only: str = ""
) -> bool:
    """Whether `candidate` may go on from `said`, which `model_id` answered (not always the asked model: it may be a
    fallback). A completion's text is simply part of the prompt, where that is a text too; where there were only
    thoughts so far, anybody can answer. `only`: see `Delivered.only`."""
    if mode == "off" or (mode == "same-model" and candidate.model_id != model_id):
        return False
    if only:
        return candidate.kind == "ring" and candidate.model == only
    if not said.strip():
        return True
    if candidate.kind == "ring":
        return True
    return has_text_prompt(call.body) if call.kind == "completion" else "prefill" in candidate.capabilities


def rest_of(call: Call, delivered: Delivered) -> Call | None:
    """`call` with `max_tokens` less what was delivered; None when nothing is left of it."""
    if call.max_tokens is None:
        return call
    left = call.max_tokens - delivered.tokens
    if left <= 0:
        if delivered.exact:
            return None
        left = 1
    body = {**call.body, **{name: left for name in _LIMITS if call.body.get(name) is not None}}
    return replace(call, body=body, max_tokens=left)


class Continuer:
    """Turns the events of the backend that goes on into events of the stream that the client already has."""

    def __init__(self, delivered: Delivered, candidate: Candidate) -> None:
        self._head = {**delivered.head}
        # A ring's prompt holds the partial answer with its last blanks: it cannot say anything again.
        before = "" if candidate.kind == "ring" else delivered.text
        self._cut = _Cut(before, repeats=candidate.provider not in _GO_ON)
        self.parts: list[str] = []
        self.reason: str | None = None
        self._stop: dict[str, Any] = {}  # the stop string that ended the answer, where that is told
        goes_on = candidate.kind == "ring" and bool(delivered.ids) and candidate.model == delivered.ids_model
        self._dropped = {"role", "content"} | (frozenset() if goes_on else _THOUGHTS)  # others think anew
        self._chat = "chat" in str(self._head.get("object", "chat"))

    def rewrite(self, batch: Batch) -> bytes:
        """The new text of `batch`. The finish_reason is kept in `reason`, for the stream's last event."""
        out = []
        for event in batch.events:
            for choice in event.get("choices") or ():
                delta = choice.get("delta")
                source: Mapping[str, Any] = choice if delta is None else delta
                text = self._cut.push(_text_in(source.get("text" if delta is None else "content")))
                extra = {name: value for name, value in (delta or {}).items() if value and name not in self._dropped}
                self.reason = choice.get("finish_reason") or self.reason
                if choice.get("stop_reason") is not None:
                    self._stop = {"stop_reason": choice["stop_reason"]}
                if self.reason is not None:
                    text += self._cut.finish()
                if text or extra:
                    out.append(self._event(text, extra))
        return b"".join(out)

    def end(self, exo: Mapping[str, Any] | None) -> bytes:
        """The event with the finish_reason."""
        piece: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        choice = {"index": 0, **piece, "logprobs": None, "finish_reason": self.reason or "length", **self._stop}
        return frame({**self._head, "choices": [choice], **({} if exo is None else {"exo": exo})})

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def _event(self, text: str, extra: Mapping[str, Any]) -> bytes:
        if text:
            self.parts.append(text)
        piece = {"delta": {**extra, **({"content": text} if text else {})}} if self._chat else {"text": text}
        return frame({**self._head, "choices": [{"index": 0, **piece, "logprobs": None, "finish_reason": None}]})


def _text_in(content: Any) -> str:
    """The text of a delta's content: a string, or a list of parts."""
    if isinstance(content, list):
        return "".join(str(one.get("text") or "") for one in content if isinstance(one, Mapping))
    return content or ""


def total_usage(delivered: Delivered, last: Usage | None, fallback: Usage, candidate: Candidate) -> tuple[Usage, bool]:
    """(prompt once and all of the completion, whether that is an estimate).

    A ring does not count the part that it was given; a provider counts it into the prompt.
    """
    used = last or fallback
    given = 0 if candidate.kind == "ring" else delivered.tokens
    prompt = max(used.prompt_tokens - given, min(used.prompt_tokens, 1))
    exact = delivered.exact and last is not None and candidate.kind == "ring"
    return Usage(prompt, delivered.tokens + used.completion_tokens, used.cached_tokens), not exact


class _Cut:
    """Takes off the front of the new text what the old text already said: all of it, or its end (`repeats`: where the
    backend may do that), and in any case the blanks that were taken off the old text for the backend."""

    def __init__(self, before: str, *, repeats: bool) -> None:
        self._before = before
        self._base = before.rstrip()
        self._blank = before[len(self._base) :]
        self._tail = before[-MAX_OVERLAP:] if repeats else ""
        self._repeats = repeats
        self._held = ""
        self._done = not before

    def push(self, text: str) -> str:
        """What can go out now; text that may still prove to be a repetition waits."""
        if self._done:
            return text
        self._held += text
        held = self._held
        if not held or self._blank.startswith(held):
            return ""
        if self._repeats and (held in self._tail or self._before.startswith(held)):
            return ""
        return self.finish()

    def finish(self) -> str:
        if self._done:
            return ""
        self._done = True
        rest = self._held[self._overlap() :] if self._repeats else self._held
        blank = 0
        while blank < min(len(self._blank), len(rest)) and rest[blank] == self._blank[blank]:
            blank += 1
        return rest[blank:]

    def _overlap(self) -> int:
        """How many characters of the held text are said again."""
        base, held = self._base, self._held
        if held.startswith(base) and len(base) >= MIN_OVERLAP // 2 and (len(base) > MAX_OVERLAP or not _rhymes(base)):
            return len(base)
        for length in range(min(len(held), len(base), MAX_OVERLAP), MIN_OVERLAP - 1, -1):
            said = held[:length]
            if base.endswith(said) and _starts_a_word(base, len(base) - length) and not _rhymes(said):
                # What comes round already is a refrain, which goes on.
                return 0 if base.endswith(said[-MIN_OVERLAP:] + said) else length
        return 0


def _starts_a_word(text: str, at: int) -> bool:
    """Whether a word may begin at `text[at]`: nobody starts again in the middle of one. Scripts without cases mostly
    have no blanks either."""
    return at == 0 or not (_in_word(text[at - 1]) and _in_word(text[at]))


def _in_word(character: str) -> bool:
    return character.isdigit() or character.lower() != character.upper()


def _rhymes(text: str) -> bool:
    """Whether `text` repeats itself (rulers, tables, rows of noughts): such an answer may well go on in the same way,
    so meeting it again says nothing."""
    return any(text[period:] == text[:-period] for period in range(1, len(text) // 2 + 1))
