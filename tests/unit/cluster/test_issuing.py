"""Certificates by a child process."""

from __future__ import annotations

import sys

import pytest

from exo_node.cluster.certificates import fingerprint
from exo_node.cluster.issuing import issue
from exo_node.cluster.keys import ClusterKey
from exo_node.errors import ExoError

KEY = ClusterKey(b"k" * 32)


async def test_a_child_signs() -> None:
    """One child for all lists of names; each gets papers of its own, of the one cluster."""
    first, second = await issue(KEY, [["a.exo"], ["b.exo"]])
    assert first.fingerprint == second.fingerprint == fingerprint(KEY)
    assert first.key != second.key
    assert [*first.roots] == [first.fingerprint]


async def test_a_child_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last words are the reason; the key is in neither."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ExoError, match="cannot make a certificate: exit status 1") as caught:
        await issue(KEY, [["a.exo"]])
    assert KEY.secret.hex() not in caught.value.message
