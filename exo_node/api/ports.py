"""What the API needs from the rest of the node. The daemon implements these; `Backend` is in `exo_node/types.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from exo_node.routing.call import Call, CallKind, Reply
from exo_node.store_spend import GroupBy, SpendQuery

Progress = Callable[[dict[str, Any]], None]
StageProgress = Callable[[str, int, int], None]  # ("fetching" or "hashing", bytes done, bytes in all)


class ClusterPort(Protocol):
    """The cluster as this node sees it, JSON-ready (`api/views.py` makes the shapes)."""

    node_id: str

    def topology(self) -> dict[str, Any]:
        """exo's shape: `nodes` by id, `peer_graph`, `active_node_id`; and `instances`."""
        ...

    def health(self) -> dict[str, Any]:
        """At least `status`: "ok", or why not."""
        ...

    def instances(self) -> list[dict[str, Any]]: ...

    async def rotate_key(self, phrase: str | None, without: Sequence[str], patience_s: float) -> dict[str, Any]:
        """Give every member another cluster key (None: a random one), but those in `without`: `KeyRing.rotate`."""
        ...

    async def instance_stats(self, instance_id: str) -> list[dict[str, Any]] | None:
        """What each runner of an instance reports, in ring order: KV slots, memory, steps. None: no such instance."""
        ...

    def recoveries(self) -> list[dict[str, Any]]:
        """The losses that generations of this node's clients got over, oldest first."""
        ...

    async def drain(self, node_id: str, *, undo: bool) -> dict[str, Any]:
        """Have a node give its shards away and take no more (`moved`, `failed`), or take them again."""
        ...

    async def head_stats(self) -> list[dict[str, Any]]:
        """What the heads on this node report, each with its `instance` and `model`."""
        ...

    async def place(
        self,
        model: str,
        *,
        min_nodes: int,
        nodes: tuple[str, ...],
        engines: tuple[str, ...],
        reuse: bool = False,
        instance_id: str = "",
        quantize: int = 0,
        draft_model: str = "",
        spares: bool = False,
        on_progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Place a model; returns the instance when it is ready. Cancelling the call gives the memory back.

        With `reuse` an instance that is ready already is good enough. `instance_id`: the UUID that a new one gets.
        `quantize`: pack full-precision weights into so many bits (4 or 8); 0 = as stored.
        `draft_model`: a small model that guesses ahead on the head; "" = none.
        `spares`: load each stage's layers once more, on another node, where there is room.

        `on_progress` gets JSON-ready objects: `stage`, `detail`, `done`, `total` (bytes), and what else there is.
        """
        ...

    async def preview(self, model: str, *, min_nodes: int) -> dict[str, Any]:
        """What `place` would do now: `model`, `context`, `slots`, `shards` as an instance's, `stage_bytes`.

        Nothing is fetched for it. Raises as `place` does.
        """
        ...

    async def describe_at(self, node_id: str, model: str, *, fetch: bool) -> dict[str, Any]:
        """A model as a node holds it: `model`, `bytes`, `n_layers`. With `fetch` it is downloaded there if need be."""
        ...

    def quit(self) -> None:
        """End this node in order, soon."""
        ...

    async def remove(self, instance_id: str) -> bool:
        """False when there is no such instance."""
        ...

    def aliases(self) -> Mapping[str, str]:
        """Short names (lower case) of models and the repositories that they stand for, whether fetched or not."""
        ...

    async def fetch_model(self, model: str, on_progress: StageProgress) -> str:
        """Have a model's files on this node, downloaded where need be, without loading it; its name.

        Cancelling stops the download; what came is kept. Raises `ModelNotFound`, `DownloadError`, ...
        """
        ...

    async def copy_model(self, source: str, name: str) -> None:
        """Let `name` stand for a model of this node too, from now on; a copy of that name is replaced.

        Raises `ModelNotFound`, or `InvalidRequest` for a name that is none, or that means another model (409).
        """
        ...

    async def delete_model(self, model: str) -> str:
        """Delete a fetched model's files on this node, then its instances here; its name. Of a copy only the name goes.

        Raises `ModelNotFound`, or `InvalidRequest` for a model that this node did not fetch, or that has copies (409).
        """
        ...


def any_model(name: str) -> bool:
    """The right of a key without `models`."""
    return True


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a request's key stands for. `admin` may change what the node does (deployments, configuration).

    `may_ask`: whether it may ask for a model of that name. `scopes`: what else it may ("use", "read").
    An admin may all. `name`: what people call the key. `proof`: the digest of the key; b"" where none was needed.
    """

    key_id: str = ""
    admin: bool = False
    may_ask: Callable[[str], bool] = any_model
    scopes: frozenset[str] = frozenset({"use"})
    name: str = ""
    proof: bytes = field(default=b"", repr=False)

    @property
    def restricted(self) -> bool:
        """Whether there are models that it may not ask for."""
        return self.may_ask is not any_model


class RoutingPort(Protocol):
    """The adapter with what belongs to it (registry, limits, response cache, keys), JSON-ready where it says dict.

    No row ever holds a secret. Every method may raise `ExoError`.
    """

    async def serve(self, call: Call) -> Reply:
        """Response cache, limits, then the adapter. A streamed call's reply comes with its first content.

        The configuration's request defaults (temperature, max_tokens, ...) are filled in behind this.
        """
        ...

    async def explain(self, call: Call) -> dict[str, Any]:
        """What `serve` would do now, without asking anybody: strategy, reason, steps, rejected."""
        ...

    async def models(self, provider: str | None = None) -> list[dict[str, Any]]:
        """External models: `id`, `owned_by` (or `provider`), and what else is known (`context_length`, ...)."""
        ...

    def providers(self) -> list[dict[str, Any]]:
        """One row each: at least `id`, `name`, `key` ("present", "missing", "invalid", "keyless"), `features`."""
        ...

    async def check_provider(self, name: str) -> dict[str, Any]:
        """Whether a provider answers and takes the key, now. Raises `NotFound` for an unknown one."""
        ...

    async def cost_estimate(
        self, models: Sequence[str], prompt_tokens: int, completion_tokens: int
    ) -> list[dict[str, Any]]:
        """A row per model, in order: `model`, `input_cost`, `output_cost`, `total_cost` (USD; None: no price known)."""
        ...

    def stats(self) -> dict[str, Any]:
        """Document 004's keys (`healthy_deployments`, `model_list`, `routing_strategy`) and more."""
        ...

    def deployments(self) -> list[dict[str, Any]]:
        """One row each, with its `id`."""
        ...

    def is_external(self, name: str) -> bool:
        """Whether a name goes to a provider whatever the cluster has: a configured one, or with a provider's prefix."""
        ...

    async def add_deployment(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Add what a `model_list` entry says; its row. Raises `InvalidRequest`/`ConfigurationError` naming the key."""
        ...

    async def remove_deployment(self, deployment_id: str) -> bool:
        """False when there is no such deployment."""
        ...

    async def spend(self, query: SpendQuery, by: GroupBy | None) -> dict[str, Any]:
        """`data`: calls, or their sums by group; `total`: their sums altogether. `query.key_id` may be a key's name."""
        ...

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again. A wrong one leaves everything as it was and raises `ConfigurationError`."""
        ...

    async def update_config(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change document 002's run-time defaults (keys and types are checked already); gives all, as they are now."""
        ...

    def metrics(self, rings: Sequence[Mapping[str, Any]], node: Mapping[str, float]) -> tuple[bytes, str]:
        """Prometheus' text and its content type; `rings`: `ClusterPort.head_stats`; `node`: `router.node_facts`."""
        ...

    def authenticate(self, token: str) -> Principal | None:
        """Whom an API key stands for; None while this node has no API key at all. Raises `Unauthorized`."""
        ...

    async def look_for_keys(self) -> None:
        """Read the keys again if there may be new ones, for one that is not known: it may be a moment old."""
        ...

    def has_key(self, key_id: str) -> bool:
        """Whether a principal's key is still there; so are "" and the admin's."""
        ...

    def default_model(self, kind: CallKind) -> str | None:
        """The model of requests that name none."""
        ...
