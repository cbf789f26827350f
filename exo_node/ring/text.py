"""From token ids to the text a client may see: pure, one object per sequence.

Two things hold text back: an incomplete UTF-8 character (the detokenizer's business) and a suffix that may still grow
into a stop string. A stop string may begin and end in the middle of tokens; the answer ends right before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from exo_node.models.toolformats.base import longest_open_suffix
from exo_node.types import TokenLogprob


class Detokenizer(Protocol):
    """models/detokenizer.py: `push` returns the text that is certain by now, `finish` the rest."""

    def push(self, ids: Sequence[int]) -> str: ...

    def finish(self) -> str: ...


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text to send now, with the tokens that it completes. `stopped`: a stop string was met (this one), nothing
    follows."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    stopped: bool = False
    stopped_by: str = ""


class TextAssembler:
    """Turns one sequence's tokens into pieces of text, cut at the first stop string. `start`: the characters that the
    client has before them."""

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str], start: int = 0) -> None:
        self._detokenizer = detokenizer
        self._sent = start
        self._stop = tuple(text for text in stop if text)
        self._held = ""  # certain text not yet sent: a suffix that may become a stop string
        self._tokens: list[tuple[int, int, TokenLogprob | None]] = []  # (offset in held where its text ends, id, ...)
        self.stopped = False

    def push(self, token_id: int, logprob: TokenLogprob | None) -> TextPiece:
        """Add one token; the piece may be empty."""
        if logprob is not None:
            logprob = replace(logprob, offset=self._sent + len(self._held))
        return self._take(self._detokenizer.push((token_id,)), token_id, logprob, final=False)

    def finish(self) -> TextPiece:
        """No token follows: everything held back goes out (unless it holds a stop string)."""
        return self._take(self._detokenizer.finish(), None, None, final=True)

    def _take(self, text: str, token_id: int | None, logprob: TokenLogprob | None, *, final: bool) -> TextPiece:
        assert not self.stopped
        self._held += text
        if token_id is not None:
            self._tokens.append((len(self._held), token_id, logprob))
        cut = first_match(self._held, self._stop)
        if cut is not None:
            self.stopped = True
            met = next(one for one in self._stop if self._held.startswith(one, cut))
            return replace(self._emit(cut, everything=False, stopped=True), stopped_by=met)
        keep = 0 if final else longest_open_suffix(self._held, self._stop)
        return self._emit(len(self._held) - keep, everything=final, stopped=False)

    def _emit(self, length: int, *, everything: bool, stopped: bool) -> TextPiece:
        """Send the first `length` held characters, with every token whose text ends within them."""
        text, self._held = self._held[:length], self._held[length:]
        self._sent += length
        done = [entry for entry in self._tokens if everything or entry[0] <= length]
        self._tokens = [(end - length, *rest) for end, *rest in self._tokens[len(done) :]]  # type: ignore[misc]
        return TextPiece(
            text,
            tuple(token_id for _, token_id, _ in done),
            tuple(logprob for _, _, logprob in done if logprob is not None),
            stopped,
        )


def first_match(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins in `text`.

    >>> first_match("one two", ["two", "e t"])
    2
    """
    found = [index for index in (text.find(one) for one in stop) if index >= 0]
    return min(found) if found else None
