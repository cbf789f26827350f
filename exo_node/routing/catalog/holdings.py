"""What there is at the moment: the configuration's deployments, those added at run time, the ring's models, peers'.

Everything worked out of it lives here too, so that it goes when something changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from exo_node.errors import InvalidRequest
from exo_node.routing.catalog import providers
from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.resolution import Resolver, backend_id
from exo_node.routing.catalog.tables import Tables
from exo_node.routing.deployment import Deployment, RoutingConfig
from exo_node.routing.plan import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """Settings that come after the configuration files: `--default-model`, `--equivalents`, `--no-enable-litellm`."""

    enabled: bool = True
    litellm_available: bool = True
    default_model: str | None = None
    equivalents: Literal["off", "failover", "latency"] | None = None


@dataclass(slots=True)
class State:
    """One configuration, made ready. What is `found` by it belongs to `local` and `peers` as they were then."""

    config: RoutingConfig
    deployments: tuple[Deployment, ...]
    local: tuple[LocalModel, ...] = ()
    peers: tuple[Deployment, ...] = ()
    answers: dict[Any, tuple[Candidate, ...]] = field(default_factory=dict)  # candidates, by what decides them
    issued: dict[str, Deployment] = field(default_factory=dict)  # deployments behind the candidates, by backend
    own: dict[str, Deployment] = field(init=False)  # `deployments` by backend
    found: Resolver | None = None

    def __post_init__(self) -> None:
        self.own = {backend_id(one): one for one in reversed(self.deployments)}

    @property
    def resolver(self) -> Resolver:
        assert self.found is not None, "made by Holdings.look"
        return self.found


class Holdings:
    """`local_models` and `peers` are asked at every `look`, so they must be quick. `fetchable` and `detect`: see
    `Resolver`."""

    def __init__(
        self,
        config: RoutingConfig,
        tables: Tables,
        equivalents: Equivalents,
        options: RegistryOptions,
        *,
        local_models: Callable[[], Sequence[LocalModel]],
        peers: Callable[[], Sequence[Deployment]],
        fetchable: Callable[[str], LocalModel | None],
        detect: Callable[[str], str | None],
    ) -> None:
        self._tables, self._equivalents, self._options = tables, equivalents, options
        self._local_models, self._peers = local_models, peers
        self._fetchable, self._detect = fetchable, detect
        self._added: dict[str, Deployment] = {}
        self._removed: set[str] = set()
        self.config = config
        self.state = self._made()

    @property
    def enabled(self) -> bool:
        """False: external models are switched off (`--no-enable-litellm`)."""
        return self._options.enabled and self.config.enabled

    def look(self) -> State:
        """The state as it is now. As long as ring and peers give equal answers, what was worked out stays."""
        state = self.state
        local, peers = tuple(self._local_models()), tuple(self._peers())
        unchanged = state.found is not None and local == state.local and peers == state.peers
        state.local, state.peers = local, peers  # if equal: the next look finds the same objects, and need not compare
        if not unchanged:
            state.answers.clear()
            state.issued.clear()
            external = self.enabled
            state.found = Resolver(
                self._tables, self._equivalents, state.deployments if external else (), peers if external else (),
                local, state.config.environment, state.config.aliases if external else {},
                state.config.default_provider, fetchable=self._fetchable, detect=self._detect,
                defaults=state.config.defaults,
            )  # fmt: skip
        return state

    def is_added(self, deployment: Deployment) -> bool:
        """Whether it came at run time."""
        return deployment.id in self._added

    def add(self, deployment: Deployment) -> Deployment:
        """Adds a deployment until the daemon ends, through reloads. Raises `InvalidRequest` for an id that is taken."""
        if any(one.id == deployment.id for one in self.state.deployments):
            raise InvalidRequest(f"there is a deployment {deployment.id!r} already", param="id")
        self._removed.discard(deployment.id)
        self._added[deployment.id] = deployment
        self.refresh()
        return next(one for one in self.state.deployments if one.id == deployment.id)

    def remove(self, deployment_id: str) -> bool:
        """Takes a deployment away; a configured one comes back with the next reload. False: there is none."""
        if not any(one.id == deployment_id for one in self.state.deployments):
            return False
        self._added.pop(deployment_id, None)
        self._removed.add(deployment_id)  # a configured one of that id, too, in whose place it was added
        self.refresh()
        return True

    def replace(self, config: RoutingConfig) -> None:
        """Another configuration (reload)."""
        self._removed.clear()
        self.adjust(config)

    def adjust(self, config: RoutingConfig) -> None:
        """The same files with other defaults: what was taken away stays away."""
        self.config = config
        self.refresh()

    def refresh(self) -> None:
        """Forget what was worked out."""
        self.state = self._made()

    def _made(self) -> State:
        config = self.config
        given = {one.id: one for one in (*config.deployments, *self._added.values()) if one.id not in self._removed}
        made = (providers.complete(one, config.environment, self._tables) for one in given.values())
        return State(config, tuple(made))
