"""What requests need of the cluster. Protocols only."""

from __future__ import annotations

from typing import Protocol

from exo_node.ring.library import LoadedTokenizer
from exo_node.ring.recovering import Recovered
from exo_node.transport.ring_client import RingClient
from exo_node.types import Instance, ModelCard


class Instances(Protocol):
    """What the backend needs of the cluster (ring/instances.py)."""

    async def ready_instance(self, model: str) -> Instance:
        """A ready instance of the model, placed first if there is none. Raises `ModelNotFound`, `NoCapacity`..."""
        ...

    async def tokenizer(self, instance: Instance) -> LoadedTokenizer: ...

    def client(self, instance: Instance) -> RingClient:
        """A connection to the instance's head, shared between requests."""
        ...

    def models(self) -> list[ModelCard]: ...

    async def recover(self, instance: Instance) -> Recovered:
        """The instance as it serves again after a loss; raises `ExoError` where it cannot (recovering.py)."""
        ...
