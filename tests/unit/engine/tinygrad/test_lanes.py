"""Vector arithmetic on x86: the numbers of tinygrad's own code, and that code where ours does not fit."""

from __future__ import annotations

import logging
import platform
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tinygrad")
from exo_node.engine.tinygrad.backend import select_backend

pytestmark = [
    pytest.mark.engine_tinygrad,
    pytest.mark.skipif(
        platform.machine().lower() not in ("x86_64", "amd64") or sys.platform != "linux", reason="X86 renderer only"
    ),
]


@pytest.fixture
def untaught(monkeypatch: pytest.MonkeyPatch) -> Any:
    """tinygrad's code generation as it comes, with an empty table of compiled kernels."""
    assert select_backend("CPU").selector == "CPU:X86"
    from tinygrad import codegen
    from tinygrad.codegen.late import devectorizer

    monkeypatch.setattr(codegen, "devectorize_alu", devectorizer.devectorize_alu)
    monkeypatch.setattr(codegen, "correct_load_store", devectorizer.correct_load_store)
    monkeypatch.setattr(codegen, "to_program_cache", {})
    return codegen


def test_changes_no_result(untaught: Any) -> None:
    """Products in tiles of 4 and 16, of one and of four rows, are tinygrad's to rounding, in other code."""
    from tinygrad import Tensor, dtypes

    from exo_node.engine.tinygrad.lanes import use_lanes
    from exo_node.engine.tinygrad.linear import linear

    rng = np.random.default_rng(0)
    found, codes = [], []
    for taught in (False, True):
        if taught:
            assert use_lanes()
            codes.append(_code(untaught.to_program_cache))
            untaught.to_program_cache.clear()
        rng = np.random.default_rng(0)
        for n, tile in ((1, 16), (4, 16), (4, 4)):
            x = Tensor(rng.standard_normal((n, 32)).astype(np.float32), device="CPU").realize()
            weight = Tensor(rng.standard_normal((2, 32, tile)).astype(np.float32), device="CPU").realize()
            found.append(linear(x, weight, None, dtypes.float32).numpy())
    codes.append(_code(untaught.to_program_cache))
    assert len(codes[0]) == len(codes[1])
    assert codes[0] != codes[1]
    for plain, vectors in zip(found[:3], found[3:], strict=True):
        assert np.abs(plain - vectors).max() <= 1e-6 * np.abs(plain).max()


@pytest.mark.parametrize("change", ["version", "name"])
def test_leaves_an_unknown_tinygrad_alone(
    change: str, untaught: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version, or one without a name that is needed: nothing is touched, and the log says so."""
    from tinygrad.codegen.late import devectorizer

    from exo_node.engine.tinygrad import lanes

    if change == "version":
        monkeypatch.setattr(lanes, "TINYGRAD", "0.12.")
    else:
        monkeypatch.delattr(devectorizer, "split_load_store")
    with caplog.at_level(logging.WARNING):
        assert not lanes.use_lanes()
    assert untaught.devectorize_alu is devectorizer.devectorize_alu
    assert ("0.12.x" if change == "version" else "split_load_store") in caplog.text


def _code(programs: dict[Any, Any]) -> list[str]:
    return [repr(program) for program in programs.values()]
