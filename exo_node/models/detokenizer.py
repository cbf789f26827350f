"""Token ids to text as they come: never half a UTF-8 character, in time linear in the number of tokens."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol


class Detokenizer(Protocol):
    """One stream of one sequence. What `push` and `finish` return, put together, is the text."""

    def push(self, ids: Iterable[int]) -> str:
        """Take the next ids; return what text is certain by now (may be empty)."""
        ...

    def finish(self) -> str:
        """No more ids: what was held back. Bytes of an unfinished character become U+FFFD, as in a whole decode."""
        ...


class BytesDetokenizer:
    """For tokenizers whose tokens are bytes of their own (`pieces.PieceRule`).

    `piece(id)` gives a token's bytes, empty for special tokens. At the start of the text up to `strip_text` spaces, or
    with `strip_token` all spaces of the first token, are taken off: what SentencePiece's decoders do with the space
    that encoding put there. Stray bytes become U+FFFD one invalid sequence at a time (Unicode's "maximal subpart"); the
    library's ByteFallback instead spoils a whole run of byte tokens for one stray, which no stream can know in advance.
    """

    def __init__(self, piece: Callable[[int], bytes], strip_text: int = 0, *, strip_token: bool = False) -> None:
        self._piece = piece
        self._strip = strip_text
        self._strip_token = strip_token
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Iterable[int]) -> str:
        pieces: Iterable[bytes] = map(self._piece, ids)
        if self._strip_token:
            pieces = self._first_stripped(pieces)
        return self._stripped(self._decoder.decode(b"".join(pieces)))

    def _first_stripped(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if self._strip_token and piece:
                self._strip_token = False
                yield piece.lstrip(b" ")
            else:
                yield piece

    def finish(self) -> str:
        return self._stripped(self._decoder.decode(b"", final=True))

    def _stripped(self, text: str) -> str:
        while self._strip and text:
            if text[0] != " ":
                self._strip = 0
                break
            text, self._strip = text[1:], self._strip - 1
        return text


class WindowDetokenizer:
    """For any other decoder: decode a short window twice and emit the difference.

    The window starts where text was last emitted for good, so its length does not grow with the sequence. `after`: the
    ids that the text continues.
    """

    _MAX_HELD = (
        16  # ids; longer than any character takes: what still ends in U+FFFD then is stray bytes, not half a one
    )

    def __init__(self, decode: Callable[[list[int]], str], after: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window: list[int] = list(after[-self._MAX_HELD :])
        self._emitted = len(self._window)  # ids of the window whose text is out

    def push(self, ids: Iterable[int]) -> str:
        return "".join(self._one(token) for token in ids)

    def _one(self, token: int) -> str:
        self._window.append(token)
        text = self._decode(self._window)
        held = len(self._window) - self._emitted
        return "" if text.endswith("\ufffd") and held < self._MAX_HELD else self._emit(text)

    def finish(self) -> str:
        return self._emit(self._decode(self._window)) if len(self._window) > self._emitted else ""

    def _emit(self, text: str) -> str:
        before = self._decode(self._window[: self._emitted])
        self._window = self._window[self._emitted :] if self._emitted else self._window
        self._emitted = len(self._window)
        return text[len(before) :]


class NamingDetokenizer:
    """Shows some special tokens as their `names`; each text between them has a detokenizer of its own."""

    def __init__(self, names: Mapping[int, str], make: Callable[[], Detokenizer]) -> None:
        self._names = names
        self._inner = make()
        self._make = make

    def push(self, ids: Iterable[int]) -> str:
        return "".join(self._named(one) if one in self._names else self._inner.push((one,)) for one in ids)

    def _named(self, token: int) -> str:
        text = self._inner.finish() + self._names[token]
        self._inner = self._make()
        return text

    def finish(self) -> str:
        return self._inner.finish()
