"""Runs the sequences of one request at once and hands their deltas to the one reader."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self

from exo_node.errors import RingBroken
from exo_node.types import Backend, GenerationRequest, TokenDelta

Item = tuple[int, TokenDelta]


class Fanout:
    """Owns one task per sequence while it is entered; leaving cancels and awaits them, which closes the backend's
    generators and with them the sequences.

    What is not taken yet waits in memory (at most `max_tokens` deltas a sequence): the ring never waits for a reader.
    """

    def __init__(self, backend: Backend, requests: Sequence[GenerationRequest]) -> None:
        self._backend = backend
        self._requests = requests
        self._items: list[Item] = []
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._open = len(requests)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._pump(i, request)) for i, request in enumerate(self._requests)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def running(self) -> bool:
        """Whether deltas are still to come."""
        return self._open > 0

    async def take(self) -> list[Item]:
        """All deltas that are there, waiting for one if need be.

        Raises what a sequence raised, as soon as all before it has been taken.
        """
        while not self._items:
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
        items, self._items = self._items, []
        self._open -= sum(delta.finish_reason is not None for _, delta in items)
        return items

    async def _pump(self, index: int, request: GenerationRequest) -> None:
        try:
            async with aclosing(self._backend.generate(request)) as deltas:
                async for delta in deltas:
                    if self._error is None:
                        self._items.append((index, delta))
                        self._news.set()
                    if delta.finish_reason is not None:
                        return
            raise RingBroken("the answer broke off: its stream ended without a finish reason")
        except Exception as e:  # carried to the reader, who raises it
            self._error = self._error or e
            self._news.set()
