"""This node's deployments in its peers' hands: within its limits, and once only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exo_node.limits.api_keys import ApiKeys
from exo_node.limits.gate import Gate
from exo_node.routing.call import UpstreamError
from exo_node.routing.candidate_gate import CandidateGate
from exo_node.routing.deployment import Deployment, Price
from exo_node.routing.lending import Lender
from exo_node.store import Store
from tests.unit.routing.cache_samples import make_call


async def test_lending(tmp_path: Path) -> None:
    """A lent deployment counts against its rpm; another node's is not lent on."""
    mine = Deployment(id="d", model_name="m", litellm_model="openai/m", provider="openai", upstream_model="m", rpm=1)
    other = Deployment(id="o", model_name="m", litellm_model="openai/m", provider="openai", upstream_model="m",
                       node_id="far")  # fmt: skip
    known = {"d": mine, "o": other}
    store = Store(tmp_path / "s.db")
    gate = CandidateGate(Gate(node="a", keys=ApiKeys(store), sums=store), known.get)
    upstream: Any = object()
    lender = Lender(gate, known.__getitem__, lambda _: upstream, lambda _: Price(1.0, 2.0))
    lent = await lender.lend("d", make_call())
    assert lent.upstream is upstream
    lent.settle(3, 4)
    for name, cause in (("d", "rate_limited"), ("o", "unavailable")):
        with pytest.raises(UpstreamError) as error:
            await lender.lend(name, make_call())
        assert error.value.cause == cause
    store.close()
