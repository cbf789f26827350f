"""Whose answer it is, in words that every node of the cluster understands.

The ids of API keys are a machine's own. What proves across machines that two requests carry the same key is a keyed
hash of it (HMAC-SHA-256, with a key derived from the cluster's): who reads the database of a mirror cannot guess weak
keys by it. Requests that need no key on a node that has none all belong to the same nobody, and only to him.
"""

from __future__ import annotations

import hashlib
import hmac

NOBODY = "nobody"


class AskerSigner:
    """`secret` is derived from the cluster's key for this purpose alone."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, proof: bytes) -> str:
        """`proof`: the digest of the key that was sent and accepted; b"" where none was needed."""
        return NOBODY if not proof else hmac.new(self._secret, proof, hashlib.sha256).hexdigest()
