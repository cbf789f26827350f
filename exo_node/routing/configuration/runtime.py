"""What is changed while the node runs: document 002's defaults, and deployments that were added. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from exo_node.errors import InvalidRequest
from exo_node.routing.call import Call
from exo_node.routing.configuration.deployment_section import read_deployment
from exo_node.routing.configuration.draft import Draft, deployments
from exo_node.routing.configuration.located import FileProblems, Problems, Source
from exo_node.routing.configuration.references import References
from exo_node.routing.configuration.secrets import SecretStore
from exo_node.routing.configuration.section import Section
from exo_node.routing.deployment import CacheConfig, Deployment, RoutingConfig

NAMES = (  # document 002's "Service Configuration", changed at run time by its `update_config`
    "default_provider",
    "default_model",
    "temperature",
    "max_tokens",
    "ollama_base_url",
    "enable_caching",
    "enable_cost_tracking",
)
REQUEST = "request"  # stands where errors name the file


class RuntimeSettings:
    """Document 002's `update_config`. Until one is set, the configuration holds."""

    def __init__(self) -> None:
        self._set: dict[str, Any] = {}

    def change(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Set some (None: back to the configuration); all of them as they are now."""
        for name, value in changes.items():
            if value is None:
                self._set.pop(name, None)
            else:
                self._set[name] = value
        return {name: self._set.get(name) for name in NAMES}

    @property
    def default_model(self) -> str | None:
        return self._set.get("default_model")

    @property
    def tracks_cost(self) -> bool:
        return self._set.get("enable_cost_tracking") is not False

    def cache(self, configured: CacheConfig) -> CacheConfig:
        """`enable_caching` switches the one cache on (in memory where nothing else is configured) and off."""
        wanted = self._set.get("enable_caching")
        if wanted is None:
            return configured
        if not wanted:
            return replace(configured, kind="off")
        kind = "memory" if configured.kind == "off" else configured.kind
        return replace(configured, kind=kind, everywhere=True)

    def over(self, configured: RoutingConfig) -> RoutingConfig:
        """The configuration with what was set here of providers and their addresses; itself where nothing was."""
        address, provider = self._set.get("ollama_base_url"), self._set.get("default_provider")
        if address is not None:
            names = ("OLLAMA_BASE_URL", "OLLAMA_API_BASE")
            configured = replace(configured, environment={**configured.environment, **dict.fromkeys(names, address)})
        return configured if provider is None else replace(configured, default_provider=provider)

    def applied(self, call: Call) -> Call:
        """`call` with what it leaves open and was set here."""
        if not self._set or call.kind != "chat":
            return call
        body, max_tokens = dict(call.body), call.max_tokens
        if body.get("temperature") is None and "temperature" in self._set:
            body["temperature"] = self._set["temperature"]
        if max_tokens is None and "max_tokens" in self._set:
            body["max_tokens"] = self._set["max_tokens"]
            max_tokens = self._set["max_tokens"] * call.answers
        return replace(call, body=body, max_tokens=max_tokens)


def read_record(record: Mapping[str, Any], config: RoutingConfig, home: Path) -> Deployment:
    """A `model_list` entry that came over the API (`id` may name it). Raises `InvalidRequest` with all its mistakes."""
    table = dict(record)
    wanted = table.pop("id", None)
    if wanted is not None and not (isinstance(wanted, str) and wanted):
        raise InvalidRequest("id must be a text that is not empty", param="id")
    problems, draft = Problems(), Draft()
    references = References(config.environment, SecretStore(home, config.environment).get)
    section = Section(Source(REQUEST, "", table, {}), (), table, references, problems)
    one = read_deployment(section, draft.notes)
    try:
        problems.raise_if_any()
    except FileProblems as error:
        raise InvalidRequest("; ".join(error.lines).replace(f"{REQUEST}:1: ", "")) from error
    if one is None:
        raise InvalidRequest("a deployment needs model_name and litellm_params with model", param="litellm_params")
    draft.deployments.append(one)
    (made,) = deployments(draft, config.defaults, False)
    return made if wanted is None else replace(made, id=wanted)
