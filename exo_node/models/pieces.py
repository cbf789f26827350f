"""How a tokenizer's decoder turns single tokens into bytes. Pure: reads the decoder's JSON, not the library's objects.

Three shapes cover the families: ByteLevel (GPT-2's 256 printable stand-ins for bytes), Metaspace, and SentencePiece's
sequence Replace / ByteFallback / Fuse / Strip. Anything else is left to the library (`None`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_level_alphabet() -> dict[str, int]:
    """Stand-in character -> byte, of GPT-2's byte-level BPE: printable Latin-1 stands for itself, others follow 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    out = {chr(byte): byte for byte in printable}
    rest = [byte for byte in range(256) if byte not in set(printable)]
    out.update({chr(256 + i): byte for i, byte in enumerate(rest)})
    return out


@dataclass(frozen=True, slots=True)
class PieceRule:
    """Token text -> bytes.

    At the start of a whole text the decoder takes off up to `strip_text` spaces, or (`strip_token`, Metaspace) every
    space at the start of the first token.
    """

    alphabet: Mapping[str, int] | None
    replacements: tuple[tuple[str, str], ...]
    byte_fallback: bool
    strip_text: int = 0
    strip_token: bool = False

    def to_bytes(self, token: str) -> bytes:
        if self.alphabet is not None:
            try:
                return bytes([self.alphabet[c] for c in token])
            except KeyError:  # an added token is stored as plain text
                return token.encode()
        for old, new in self.replacements:
            token = token.replace(old, new)
        if self.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return token.encode()


def piece_rule(decoder: Mapping[str, Any] | None) -> PieceRule | None:
    """The rule of that decoder (its JSON in tokenizer.json), or None where tokens have no bytes of their own."""
    if decoder is None:
        return None
    steps = decoder.get("decoders", []) if decoder.get("type") == "Sequence" else [decoder]
    if [step.get("type") for step in steps] == ["ByteLevel"]:
        return PieceRule(byte_level_alphabet(), (), False)
    replacements: list[tuple[str, str]] = []
    byte_fallback = fused = False
    strip = 0
    for step in steps:
        match step.get("type"):
            case "Replace" if not fused and isinstance(step.get("pattern", {}).get("String"), str):
                replacements.append((step["pattern"]["String"], step["content"]))
            case "ByteFallback" if not fused:
                byte_fallback = True
            case "Fuse":
                fused = True
            case "Strip" if fused and step.get("content") == " " and step.get("stop") == 0 and not strip:
                strip = int(step["start"])
            case "Metaspace" if len(steps) == 1:
                drops = step.get("prepend_scheme", "always") != "never"
                return PieceRule(None, ((step["replacement"], " "),), False, strip_token=drops)
            case _:
                return None
    return PieceRule(None, tuple(replacements), byte_fallback, strip) if replacements or byte_fallback else None
