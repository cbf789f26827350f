"""Four float32 at a time on x86. Imports tinygrad: engine.py imports it after a backend is set.

tinygrad 0.13's X86 renderer has the vector instructions, but before it every vector operation is cut into scalars and
sums are kept one by one. Left whole in fours, additions and multiplications of our products take half the time from two
rows on (linear.py, 1B shape: 23.6 against 14.4 ms for four rows of [16384, 2048]). Nothing else is touched.
"""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any

import tinygrad.codegen as codegen
from tinygrad.codegen.late import devectorizer
from tinygrad.dtype import AddrSpace, dtypes
from tinygrad.uop import GroupOp, Ops
from tinygrad.uop.ops import PatternMatcher, UOp, UPat

_log = logging.getLogger(__name__)
TINYGRAD = "0.13."  # the versions whose code generation was read; what another makes of our rules nobody knows
_NAMES = (
    (codegen, ("devectorize_alu", "correct_load_store")),
    (devectorizer, ("no_vectorized_alu", "no_vectorized_wmma", "split_load_store", "image_fixup")),
)
LANES = 4  # a 128-bit register; the renderer's wider ones give wrong numbers


def use_lanes() -> bool:
    """Teach tinygrad's code generation, once per process. Only for the X86 renderer.

    False, and a warning, if it is not the code generation that we know: then products are slower, not wrong.
    """
    if reason := _unknown(version("tinygrad")):
        _log.warning("tinygrad %s: products run one number at a time, about half as fast", reason)
        return False
    if codegen.devectorize_alu is not _ARITHMETIC:
        codegen.devectorize_alu = _ARITHMETIC
        codegen.correct_load_store = _MEMORY
    return True


def _unknown(installed: str) -> str | None:
    if not installed.startswith(TINYGRAD):
        return f"{installed} is not {TINYGRAD}x, whose code generation we know"
    missing = [f"{module.__name__}.{name}" for module, names in _NAMES for name in names if not hasattr(module, name)]
    return f"{installed} lacks {missing[0]}" if missing else None


def _arithmetic(alu: UOp) -> UOp | None:
    count = alu.dtype.vcount
    if alu.op not in (Ops.ADD, Ops.MUL) or alu.dtype.scalar() is not dtypes.float32 or count % LANES:
        return devectorizer.no_vectorized_alu(alu)
    if count == LANES:
        return None
    parts = [
        UOp(alu.op, dtypes.float32.vec(LANES), tuple(s.gep(tuple(range(at, at + LANES))) for s in alu.src))
        for at in range(0, count, LANES)
    ]
    return UOp(Ops.VCAT, alu.dtype, tuple(parts))


def _memory(ctx: Any, access: UOp, index: UOp) -> UOp | None:
    """Load and store sums, which lie on the stack, in fours; all else as tinygrad does."""
    buffer, count = index.src[0], access.src[0].dtype.count
    if buffer.ptrdtype.addrspace != AddrSpace.REG or buffer.dtype.base != dtypes.float32 or count % LANES:
        return devectorizer.split_load_store(ctx, access, index)
    if count == LANES:
        return None
    start = index.src[1].get_idx()
    pointer = buffer.ptrdtype.base.vec(LANES).ptr(size=buffer.ptrdtype.size, addrspace=buffer.ptrdtype.addrspace)
    parts = []
    for at in range(0, count, LANES):
        place = buffer.index(start + at, ptr=True).cast(pointer)
        if access.op is Ops.STORE:
            parts.append(access.replace(src=(place, access.src[1].gep(tuple(range(at, at + LANES))))))
        else:
            parts.append(access.replace(src=(place, *access.src[1:]), dtype=access.dtype.scalar().vec(LANES)))
    return UOp(Ops.VCAT, access.dtype, tuple(parts)) if access.op is Ops.LOAD else UOp.group(*parts)


_ARITHMETIC = PatternMatcher(
    [
        (
            UPat(Ops.CAST, name="c").f(Ops.AFTER, allow_any_len=True, name="a"),
            lambda c, a: c.src[0].after(*a.src[1:]).cast(c.dtype),
        ),
        (UPat((*GroupOp.ALU, Ops.CAST, Ops.BITCAST), name="alu"), _arithmetic),
        (UPat(Ops.WMMA, name="wmma"), lambda wmma: devectorizer.no_vectorized_wmma(wmma)),
    ]
)
_MEMORY = PatternMatcher(
    [
        (
            UPat((Ops.LOAD, Ops.STORE), src=(UPat(Ops.INDEX, name="index").cast(),), name="access", allow_any_len=True),
            _memory,
        ),
        (UPat((Ops.LOAD, Ops.STORE), name="ls"), lambda ls: devectorizer.image_fixup(ls)),
    ]
)
