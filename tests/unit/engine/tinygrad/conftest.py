"""Rings that several files' tests use: compiling a family's kernels costs seconds, so it is done once a session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from tests.unit.engine.tinygrad.harness import Pair


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Of a family: `Pair`, its slots empty."""
    root = tmp_path_factory.mktemp("families")

    @cache
    def made(family: str) -> Pair:
        return Pair(family, root)

    def empty(family: str) -> Pair:
        pair = made(family)
        pair.clear()
        return pair

    return empty
