"""Attention of one row: heads that share a key, masks, against the plain formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exo_node.engine.mlx.attention import attend

mx: Any = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.engine_mlx


def formula(q: Any, k: Any, v: Any, scale: float, seen: Any) -> Any:
    """float64, head by head."""
    q, k, v = (np.array(x, np.float64)[0] for x in (q, k, v))
    out = np.empty_like(q)
    for head in range(q.shape[0]):
        shared = head * k.shape[0] // q.shape[0]
        scores = np.where(seen, q[head] @ k[shared].T * scale, -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[head] = weights / weights.sum(axis=1, keepdims=True) @ v[shared]
    return out


@pytest.mark.parametrize("kv_heads", (1, 2, 6))
@pytest.mark.parametrize("n", (1, 2, 8, 9))
def test_follows_the_formula(n: int, kv_heads: int) -> None:
    """One token without a mask, several under "causal" and under a window, whether heads share keys or not."""
    total = 20
    q, k, v = (
        mx.random.normal((1, heads, tokens, 4), key=mx.random.key(i))
        for i, (heads, tokens) in enumerate(((6, n), (kv_heads, total), (kv_heads, total)))
    )
    queries, keys = np.arange(total - n, total)[:, None], np.arange(total)
    causal = queries >= keys
    window = causal & (queries < keys + 5)
    cases = [("causal", causal), (mx.array(window), window)] + ([(None, causal)] if n == 1 else [])
    for mask, seen in cases:
        got = np.array(attend(mx, q, k, v, scale=0.3, mask=mask))[0]
        assert np.abs(got - formula(q, k, v, 0.3, seen)).max() < 1e-5
