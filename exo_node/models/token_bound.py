"""How many tokens a text certainly has, told without tokenizing it."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from exo_node.models.pieces import PieceRule

if TYPE_CHECKING:
    import tokenizers

# The longest text one token may stand for, in bytes per byte that the vocabulary shows: NFC shrinks at most threefold
# (Unicode's worst case, conjoining jamo), 4 leaves room. Other normalizers may delete text: no bound then.
_NFC_SHRINK = 4
_METASPACE = "\u2581"  # SentencePiece's sign for a space: three bytes of text, one byte of token


class TokenBound:
    """The bound of one tokenizer, whose decoder has the `rule`; what it needs of the vocabulary is read once."""

    def __init__(self, backend: tokenizers.Tokenizer, rule: PieceRule | None) -> None:
        self._backend = backend
        self._rule = rule

    def min_tokens(self, text: str) -> int:
        """A number of tokens that `text` certainly has, without tokenizing it (linear scan); 0 where none is known."""
        shrink = self._shrink
        if not shrink or not text:
            return 0
        if self._swallows_space:  # a special token may take in the white space beside it: only the rest is counted
            text = "".join(text.split())
        size = len(text.replace(_METASPACE, " ").encode(errors="replace"))
        return -(-size // (self._longest_token_bytes * shrink))

    @cached_property
    def _longest_token_bytes(self) -> int:
        """Bytes of the longest token of the vocabulary, added tokens included."""
        assert self._rule is not None  # as `_shrink` found
        vocab = self._backend.get_vocab(with_added_tokens=True)
        return max((len(self._rule.to_bytes(token)) for token in vocab), default=1)

    @cached_property
    def _swallows_space(self) -> bool:
        return any(token.lstrip or token.rstrip for token in self._backend.get_added_tokens_decoder().values())

    @cached_property
    def _shrink(self) -> int:
        """How many bytes of text may lie behind one byte of token text; 0 if any number."""
        if type(self._backend.model).__name__ != "BPE" or self._rule is None or not self._covers_bytes():
            return 0
        for step in _steps(self._backend.pre_tokenizer, "pretokenizers"):
            removes = step["type"] == "Split" and step.get("behavior") == "Removed"
            if removes or step["type"] not in ("ByteLevel", "Metaspace", "Digits", "Punctuation", "Split"):
                return 0
        shrink = 1
        for step in _steps(self._backend.normalizer, "normalizers"):
            if step["type"] == "NFC":
                shrink = _NFC_SHRINK
            elif step["type"] == "Replace" and step.get("pattern") == {"String": " "} and step["content"] == _METASPACE:
                continue
            elif step["type"] not in ("Prepend", "ByteLevel"):
                return 0
        return shrink

    def _covers_bytes(self) -> bool:
        """Whether every byte has a token, so that no text is dropped or folded into one unknown token."""
        assert self._rule is not None
        if self._rule.alphabet is not None:
            names = list(self._rule.alphabet)
        elif self._rule.byte_fallback and self._backend.model.byte_fallback:
            names = [f"<0x{byte:02X}>" for byte in range(256)]
        else:
            return False
        return all(self._backend.token_to_id(name) is not None for name in names)


def part_state(part: Any) -> dict[str, Any]:
    """A tokenizer part's JSON. Parsing the whole tokenizer.json instead would cost 150 MB for a large vocabulary."""
    return dict(json.loads(part.__getstate__())) if part is not None else {}


def _steps(part: Any, field: str) -> list[dict[str, Any]]:
    state = part_state(part)
    return list(state.get(field, [state])) if state else []
