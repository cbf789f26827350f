"""Reasoning that a model writes between marks of its own, at the beginning of its answer."""

from __future__ import annotations

from dataclasses import dataclass

from exo_node.models.toolformats.base import Parsed, longest_open_suffix


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands around the thoughts."""

    open: str
    close: str


# https://huggingface.co: Qwen3 and DeepSeek-R1; Magistral; Seed-OSS; Gemma 4.
KNOWN = (
    Marks("<think>", "</think>"),
    Marks("[THINK]", "[/THINK]"),
    Marks("<seed:think>", "</seed:think>"),
    Marks("<|channel>thought", "<channel|>"),
)


class ThoughtSplitter:
    """Splits an answer as it comes. `inside`: the prompt has opened the block already.

    Only the beginning of an answer can open it, so that a text about the marks stays a text. White space next to a mark
    belongs to it.
    """

    def __init__(self, marks: Marks, *, inside: bool) -> None:
        self._marks = marks
        self._state = "inside" if inside else "before"
        self._held = ""
        self._trims = inside  # white space at the start of what comes is the mark's

    @property
    def thinking(self) -> bool:
        return self._state == "inside"

    def feed(self, text: str) -> Parsed:
        if self._state == "after" and not self._trims:
            return Parsed(text)
        self._held += text
        return self._take(final=False)

    def finish(self) -> Parsed:
        return self._take(final=True)

    def _take(self, *, final: bool) -> Parsed:
        reasoning = ""
        if self._state == "before":
            start = self._held.lstrip()
            if start.startswith(self._marks.open):
                self._state, self._held, self._trims = "inside", start[len(self._marks.open) :], True
            elif not final and self._marks.open.startswith(start):
                return Parsed()
            else:
                self._state = "after"
        if self._state == "inside":
            if self._trims:
                self._held = self._held.lstrip()
                self._trims = not self._held
            end = self._held.find(self._marks.close)
            if end < 0:
                held = longest_open_suffix(self._held, (self._marks.close,))
                thought = self._held[: len(self._held) - held].rstrip()
                thought = self._held if final else thought
                self._held = self._held[len(thought) :]
                return Parsed(reasoning=thought)
            reasoning = self._held[:end].rstrip()
            self._state, self._held, self._trims = "after", self._held[end + len(self._marks.close) :], True
        text, self._held = self._held, ""
        if self._trims:
            text = text.lstrip()
            self._trims = not text
        return Parsed(text, reasoning)
