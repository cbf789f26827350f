"""What input is made of: hypothesis strategies for JSON and text, and mutations of bytes, texts and JSON values."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

from hypothesis import strategies as st

# Each of them broke a program once: numbers at the edges, texts that are code, marks, escapes or half characters.
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308, 5e-324, 1e16,
)  # fmt: skip
TEXTS: tuple[str, ...] = (
    "", " ", "\0", "\n", "a\r\nb: c", "null", "true", "NaN", "-1", "1e999", "\ud800", "\udfff\ud800", "\U0001f600",
    "e\u0301", "\u202e", "\u2028", "../../etc/passwd", "/etc/passwd", "C:\\x", "file:///etc/passwd", "http://[::1",
    "${HOME}", "os.environ/HOME", "enc:v1:AAAA", "{{ 7*7 }}", "{% for %}", "%s%n", "'; DROP TABLE spend; --",
    "<script>", "[" * 400, "{" * 50, "(" * 30 + "a+" * 10 + ")" * 30, "(a|a)*" * 8, "\\", '"', "'", "a" * 5000,
    "0" * 400, "٣", "१", "²", "data:image/png;base64,AAAA", "data:,", "2024-02-30", "user", "system", "<tool_call>",
    "openai/gpt-4o", "*", "demo",
)  # fmt: skip

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.integers(-1000, 1000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
)
names = st.one_of(st.text(max_size=8), st.sampled_from(TEXTS))
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)


def nasty(random: Random) -> Any:
    """One JSON value that its place may not expect."""
    match random.randrange(6):
        case 0:
            return random.choice(NUMBERS)
        case 1 | 2:
            return random.choice(TEXTS)
        case 3:
            return random.choice((None, True, False))
        case 4:
            return random.choice(([], {}, [[]], [None], {"": None}, [{}], {"type": {}}))
        case _:
            return [nasty(random) for _ in range(random.randrange(3))]


def mutated(value: Any, random: Random, changes: int = 2) -> Any:
    """A copy of a JSON value with some places changed, removed, doubled or put elsewhere."""
    made = copy.deepcopy(value)
    for _ in range(random.randint(1, changes)):
        places = list(_places(made))
        if not places:
            return nasty(random)
        holder, key = random.choice(places)
        other, its = random.choice(places)
        match random.randrange(6):
            case 0 | 1:
                holder[key] = nasty(random)
            case 2:
                holder[key] = copy.deepcopy(other[its])
            case 3 if isinstance(holder, dict):
                holder[random.choice(TEXTS)] = holder.pop(key)
            case 3:
                holder.insert(key, nasty(random))
            case 4:
                del holder[key]
            case _:
                holder[key] = [holder[key]] if random.random() < 0.5 else {"value": holder[key]}
    return made


def _places(value: Any, depth: int = 0) -> Any:
    if depth > 12:
        return
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner, depth + 1)


def broken(data: bytes, random: Random) -> bytes:
    """Bytes with bits turned, cut, doubled, put in or taken out."""
    made = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = random.randrange(len(made) + 1)
        match random.randrange(7):
            case 0 if made:
                made[at % len(made)] ^= 1 << random.randrange(8)
            case 1 if made:
                made[at % len(made)] = random.choice((0, 0x7F, 0x80, 0xFF, 0x22, 0x7B, 0x5C, 0x0A))
            case 2:
                del made[at:]
            case 3:
                del made[at : at + random.randrange(1, 9)]
            case 4:
                made[at:at] = random.randbytes(random.randrange(1, 9))
            case 5:
                made[at:at] = made[at : at + random.randrange(1, 65)]
            case _:
                made[at : at + 8] = random.choice(
                    (b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\xff\x0f", b"{" * 300, b"[" * 300, b'"\\ud800"', b"1e999")
                )
    return bytes(made)


def broken_text(text: str, random: Random) -> str:
    """As `broken`, in characters, with words that mean something put in."""
    for _ in range(random.choice((1, 1, 2, 5))):
        at, end = sorted((random.randrange(len(text) + 1), random.randrange(len(text) + 1)))
        match random.randrange(5):
            case 0:
                text = text[:at] + text[min(end, at + random.randrange(1, 12)) :]
            case 1:
                text = text[:at] + random.choice(TEXTS)[:300] + text[at:]
            case 2:
                text = text[:at] + text[at : at + 40] + text[at:]
            case 3:
                text = text[:at]
            case _:
                text = text[:at] + chr(random.choice((0, 9, 10, 13, 34, 39, 123, 125, 0x85, 0xFEFF))) + text[at + 1 :]
    return text


def as_json(value: Any) -> bytes:
    """JSON's bytes; half surrogate pairs stay escapes."""
    return json.dumps(value).encode()
