"""A deployment that only LiteLLM can reach: asked through the least busy worker of the sidecar."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from exo_node.errors import ConfigurationError
from exo_node.routing.call import Attempt, Batch, Call, UpstreamError, Whole
from exo_node.routing.deployment import Deployment
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.passthrough import PassThrough
from exo_node.routing.upstream.service import Endpoint, LiteLLMService


class SidecarUpstream:
    """`call.Upstream` over `LiteLLMService`; starts the sidecar where it is not running yet."""

    def __init__(self, service: LiteLLMService, connections: Connections, deployment: Deployment) -> None:
        self._service = service
        self._connections = connections
        self._deployment = deployment

    async def ready(self, call: Call) -> None:
        """Wait until a worker serves: the first call waits for an import of seconds, which is not the provider's time.

        Raises `UpstreamError` ("unavailable").
        """
        async with self._worker():
            pass

    async def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]:
        async with (
            self._worker() as endpoint,
            contextlib.aclosing(self._through(endpoint).stream(attempt)) as batches,
        ):
            async for batch in batches:
                yield batch

    async def whole(self, attempt: Attempt) -> Whole:
        async with self._worker() as endpoint:
            return await self._through(endpoint).whole(attempt)

    @contextlib.asynccontextmanager
    async def _worker(self) -> AsyncGenerator[Endpoint, None]:
        try:
            await self._service.ensure(self._deployment)
            async with self._service.worker() as endpoint:
                await self._service.ensure(self._deployment)  # the first start takes seconds: it may be gone since
                yield endpoint
        except ConfigurationError as error:  # LiteLLM is not installed: another backend may serve
            raise UpstreamError(error.message, "unavailable") from error

    def _through(self, endpoint: Endpoint) -> PassThrough:
        return PassThrough(self._connections, self._deployment, unix_path=endpoint.socket)
