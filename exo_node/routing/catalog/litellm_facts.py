"""LiteLLM's table of models (prices, windows, capabilities), copied from its sidecar once a call has started that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, cast

from exo_node.routing.call import Capability, UpstreamError
from exo_node.routing.catalog.capabilities import ModelInfo
from exo_node.routing.deployment import Price

log = logging.getLogger("exo.litellm")

AGAIN_S = 30.0  # after a worker that died over the question


class Knows(Protocol):
    """The part of `LiteLLMService` that is asked."""

    async def serving(self) -> None: ...

    async def facts(self) -> dict[str, list[Any]]: ...


class LiteLLMFacts:
    """`price` and `info` answer from memory: None for everything until the sidecar has told."""

    def __init__(self, service: Knows) -> None:
        self._service = service
        self._rows: dict[str, list[Any]] = {}

    def price(self, model: str) -> Price | None:
        """USD per million tokens of "provider/model" (`pricing.PriceLookup`)."""
        row = self._rows.get(model)
        return None if row is None or row[5] is None else Price(row[5], row[6], cached=row[7])

    def info(self, model: str) -> ModelInfo | None:
        """What is known of "provider/model" or of a bare name (`candidates.InfoLookup`)."""
        row = self._rows.get(model)
        if row is None:
            return None
        provider, mode, context, can, cannot = row[:5]
        if mode in ("embedding", "rerank"):
            return ModelInfo(provider=provider or None, context=context, can=frozenset({cast(Capability, mode)}))
        return ModelInfo(
            provider=provider or None, context=context, adds=frozenset(can), lacks=frozenset(cannot)
        )  # fmt: skip

    async def run(self, told: Callable[[], None]) -> None:
        """Fetch the table when a worker serves, call `told` and end; it does not change while LiteLLM is installed.

        Starts no worker. Tries again where one dies over it.
        """
        while not self._rows:
            await self._service.serving()
            try:
                self._rows = await self._service.facts()
            except UpstreamError as error:
                log.warning("LiteLLM's table of models: %s; trying again in %g s", error, AGAIN_S)
                await asyncio.sleep(AGAIN_S)
        log.info("LiteLLM's table of models: %d rows", len(self._rows))
        told()
