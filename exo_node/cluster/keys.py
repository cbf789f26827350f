"""The cluster's key and what is derived from it. Pure: no files here (cluster/identity.py keeps it on disk).

One key of 256 bits makes a cluster (ARCHITECTURE 5). It never travels; what travels or is announced is derived from it
with HKDF-SHA256 (RFC 5869) under a purpose of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import math
import re
import secrets
import unicodedata
from dataclasses import dataclass, field

from exo_node.errors import ConfigurationError

KEY_BYTES = 32
CHECKSUM_BYTES = 3  # with the key 35 bytes = exactly 56 characters of base32; a typo passes with probability 2^-24
CODE_GROUP = 4
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32: no I, L, O, U
LOOKALIKES = str.maketrans({"O": "0", "I": "1", "L": "1"})
SCRYPT = {"n": 2**16, "r": 8, "p": 1}  # 64 MiB and about 0.2 s a guess
PHRASE_SALT = b"exo-node cluster phrase v1"  # the same everywhere: one phrase must give one key on every machine
MIN_PHRASE_BITS = 80
WORD_BITS = 11.0  # what one word of a sentence is taken to be worth at most: a choice among 2048
CONSONANTS, VOWELS = "bdfghjklmnprstvz", "aiou"  # 16 and 4: a word of CVCVC holds 16 bits


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """32 secret bytes that the nodes of one cluster share."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"a cluster key has {KEY_BYTES} bytes, not {len(self.secret)}")

    @classmethod
    def generate(cls) -> ClusterKey:
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_phrase(cls, phrase: str, name: str = "--cluster-key") -> ClusterKey:
        """The key of a phrase (scrypt), which is given as `name`. Takes about 0.2 s and 64 MiB.

        Raises `ConfigurationError` with a random phrase to use instead when the phrase is guessable: its fingerprint is
        announced on the network, so anybody may try phrases against it.
        """
        text = " ".join(unicodedata.normalize("NFKC", phrase).split())
        bits = phrase_bits(text)
        if bits < MIN_PHRASE_BITS:
            raise ConfigurationError(
                f"{name}: the phrase can be guessed (about {bits:.0f} bits, {MIN_PHRASE_BITS} are needed); "
                f'use for example "{propose_phrase()}"',
                param=name,
            )
        return cls(hashlib.scrypt(text.encode(), salt=PHRASE_SALT, maxmem=2**27, dklen=KEY_BYTES, **SCRYPT))

    @classmethod
    def from_join_code(cls, code: str) -> ClusterKey:
        """The key that `join_code` printed; case, spaces and dashes do not matter. Raises `ConfigurationError`."""
        plain = re.sub(r"[\s-]", "", code).upper().translate(LOOKALIKES)
        length = (KEY_BYTES + CHECKSUM_BYTES) * 8 // 5
        for position, character in enumerate(plain):
            if character not in ALPHABET:
                raise ConfigurationError(
                    f"join code: {character!r} in group {position // CODE_GROUP + 1} is no character of a code"
                )
        if len(plain) != length:
            raise ConfigurationError(
                f"join code: {len(plain)} characters instead of {length}; copy all of what `exo key` shows"
            )
        number = 0
        for character in plain:
            number = number << 5 | ALPHABET.index(character)
        raw = number.to_bytes(KEY_BYTES + CHECKSUM_BYTES, "big")
        secret = raw[:KEY_BYTES]
        if raw[KEY_BYTES:] != _checksum(secret):
            raise ConfigurationError("join code: mistyped (its checksum does not fit); compare it with `exo key`")
        return cls(secret)

    @property
    def join_code(self) -> str:
        """The key in 14 groups of 4 characters, with a checksum; who has it is a member."""
        number = int.from_bytes(self.secret + _checksum(self.secret), "big")
        length = (KEY_BYTES + CHECKSUM_BYTES) * 8 // 5
        plain = "".join(ALPHABET[number >> 5 * (length - 1 - i) & 31] for i in range(length))
        return "-".join(plain[i : i + CODE_GROUP] for i in range(0, length, CODE_GROUP))

    def subkey(self, info: bytes, length: int = 32) -> bytes:
        """`length` bytes for the purpose `info` (HKDF-SHA256, no salt)."""
        pseudo_random = hmac.digest(b"\0" * 32, self.secret, "sha256")
        block, output = b"", b""
        for counter in range(1, -(-length // 32) + 1):
            block = hmac.digest(pseudo_random, block + info + bytes([counter]), "sha256")
            output += block
        return output[:length]


def _checksum(secret: bytes) -> bytes:
    return hashlib.sha256(b"exo join code v1" + secret).digest()[:CHECKSUM_BYTES]


def propose_phrase(words: int = 8) -> str:
    """Random pronounceable words of 16 bits each, no two alike; 8 of them hold 128 bits and are judged at 88."""
    found: dict[str, None] = {}  # in the order drawn
    while len(found) < words:
        found["".join(secrets.choice(VOWELS if i % 2 else CONSONANTS) for i in range(5))] = None
    return " ".join(found)


def phrase_bits(phrase: str) -> float:
    """A deliberately low estimate of how many bits a guesser needs for `phrase`.

    Runs of three or more letters of one case count as words (2.2 bits a letter, at most 11, each word once); digits and
    signs count by their alphabet, repeats and counting up or down count nothing.
    """
    bits = 0.0
    words: set[str] = set()
    # A capital followed by small letters is one word, as in CamelCase; otherwise a change of case starts a new run.
    for run in re.findall(r"[^\W\d_][^\W\d_A-Z]*|[A-Z]+|\d+|[^\w\s]|_", phrase):
        if run[0].isdigit():
            fresh = sum(abs(ord(b) - ord(a)) > 1 for a, b in itertools.pairwise(run))
            bits += math.log2(10) * (1 + fresh)
        elif not run[0].isalpha():
            bits += 0.0 if run in words else 3.0
            words.add(run)
        elif len(run) < 3:
            bits += 4.7 * len(set(run.casefold()))
        elif run.casefold() not in words:
            bits += min(2.2 * len(run), WORD_BITS)
            words.add(run.casefold())
    return bits
