"""A deployment behind the sidecar, where there is none; `integration/sidecar` drives real ones."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exo_node.errors import ConfigurationError
from exo_node.routing.call import Attempt, UpstreamError
from exo_node.routing.deployment import Deployment
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.service import Endpoint, LiteLLMService
from exo_node.routing.upstream.sidecar_upstream import SidecarUpstream
from tests.unit.routing.cache_samples import make_call


class Missing(LiteLLMService):
    """On a machine without LiteLLM."""

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[Endpoint]:
        raise ConfigurationError("LiteLLM is not installed: install exo-node[litellm]")
        yield Endpoint(0, "")


class Reloaded(LiteLLMService):
    """Another configuration comes while the first worker starts."""

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[Endpoint]:
        await self.update([])
        yield Endpoint(0, "")


async def test_a_call_outlives_a_reload(tmp_path: Path) -> None:
    """A deployment that went while the sidecar started is known to it as long as its call needs."""
    deployment = Deployment(id="d", model_name="m", litellm_model="cohere/m", provider="cohere", upstream_model="m")
    service = Reloaded(home=tmp_path, environment={}, deployments=[deployment])
    async with SidecarUpstream(service, Connections(), deployment)._worker():
        assert service.deployments == (deployment,)


async def test_without_litellm_another_backend_may_serve(tmp_path: Path) -> None:
    """That it is not installed fails over, whole and streamed, and says what to install."""
    deployment = Deployment(id="d", model_name="m", litellm_model="cohere/m", provider="cohere", upstream_model="m")
    service = Missing(home=tmp_path, environment={})
    upstream = SidecarUpstream(service, Connections(), deployment)
    attempt = Attempt(call=make_call(), timeout_s=1.0)
    for ask in (upstream.whole(attempt), anext(upstream.stream(attempt))):
        with pytest.raises(UpstreamError, match="exo-node") as error:
            await ask
        assert (error.value.cause, error.value.fails_over) == ("unavailable", True)
