"""Whose answer it is, over machines."""

from __future__ import annotations

from exo_node.api.mirroring.asker import NOBODY, AskerSigner


def test_keys_are_told_apart_and_not_told() -> None:
    """The same key is the same asker on every node of a cluster, and of no other; no key is nobody's."""
    one, same, other = AskerSigner(b"cluster"), AskerSigner(b"cluster"), AskerSigner(b"another")
    assert one.sign(b"key") == same.sign(b"key") != other.sign(b"key")
    assert one.sign(b"key") != one.sign(b"key 2")
    assert one.sign(b"") == other.sign(b"") == NOBODY
    assert "key" not in one.sign(b"key")
