"""`load_routing`: files and environment -> `RoutingConfig`. Reads files, changes nothing; a reload is another call.

Precedence (FEATURES "Defaults"): model record > configuration file > environment (`.env` below the real one) > flag >
built in. Between files the later wins, key by key.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exo_node.config import Settings
from exo_node.routing.configuration import records
from exo_node.routing.configuration.config_file import read_config, read_environment_variables
from exo_node.routing.configuration.deployment_section import read_deployment
from exo_node.routing.configuration.draft import Draft, aliases, cache_config, deployments, redis_config
from exo_node.routing.configuration.environment import EnvFile, find_env_file, lay_over, merge, read_env_file, unify
from exo_node.routing.configuration.located import FileProblems, Keys, Problems, Source, read_source
from exo_node.routing.configuration.references import References
from exo_node.routing.configuration.router_section import strategy
from exo_node.routing.configuration.secrets import SecretStore
from exo_node.routing.configuration.section import Section
from exo_node.routing.deployment import RedisConfig, RoutingConfig

_SHAPES = (
    "wants LiteLLM's or exo's configuration (model_list, model_deployments, ...), a record with system_name, "
    "or a list of records"
)


def load_routing(settings: Settings, env: Mapping[str, str], folder: Path | None = None) -> RoutingConfig:
    """What `settings.litellm_config`, `.env` (in `folder`, by default the current one) and `env` say of routing.

    Raises `ConfigurationError`; for mistakes in files it is a `FileProblems` with one line for each of them.
    """
    problems = Problems()
    sources = _sources(settings.litellm_config, problems)
    env_path: Path | None = None
    env_file: EnvFile | None = None
    try:
        env_path = find_env_file(settings.env_file, Path.cwd() if folder is None else folder)
        env_file = None if env_path is None else read_env_file(env_path, env)
    except FileProblems as e:
        problems.lines += e.lines
    environment = merge(env_file, env)
    store = SecretStore(settings.home, environment)
    draft = Draft()
    said = ChainMap(draft.environment, environment)  # each may refer to those before it
    for source in sources:
        top = _top(source, References(said, store.get), problems)
        if top is not None:
            read_environment_variables(top, draft)
    lay_over(environment, draft.environment)
    try:
        unify(environment)
    except FileProblems as e:
        problems.lines += e.lines
    _read_all(sources, References(environment, store.get), store, draft, problems)
    read = (*(source.name for source in sources), *([str(env_path)] if env_path else []))
    config = _config(settings, environment, draft, read, problems)
    problems.raise_if_any()
    return config


def _sources(paths: tuple[Path, ...], problems: Problems) -> list[Source]:
    found = []
    for path in paths:
        try:
            found.append(read_source(path.expanduser()))
        except FileProblems as e:
            problems.lines += e.lines
    return found


def _top(source: Source, refs: References, problems: Problems) -> Section | None:
    return Section(source, (), source.value, refs, problems) if isinstance(source.value, dict) else None


def _read_all(sources: list[Source], refs: References, store: SecretStore, draft: Draft, problems: Problems) -> None:
    """Provider records of every file come before the model records that name them."""
    models: list[Section] = []
    providers: dict[str, records.Provider] = {}
    for source in sources:
        for section in _tables(source, refs, problems):
            _read_table(section, store, draft, providers, models)
    for section in models:
        records.read_model(section, draft, providers)


def _tables(source: Source, refs: References, problems: Problems) -> list[Section]:
    """The file's table, or the tables of its list."""
    value = source.value
    items: list[tuple[Keys, Any]] = (
        [((i,), item) for i, item in enumerate(value)] if isinstance(value, list) else [((), value)]
    )
    found = []
    for keys, item in items:
        if isinstance(item, dict):
            found.append(Section(source, keys, item, refs, problems))
        else:
            problems.add(source.where(keys), _SHAPES)
    return found


def _read_table(
    section: Section,
    store: SecretStore,
    draft: Draft,
    providers: dict[str, records.Provider],
    models: list[Section],
) -> None:
    table = section.table
    if records.is_model(table):
        models.append(section)
    elif records.is_provider(table):
        records.read_provider(section, draft, store, providers)
    elif records.are_custom_models(table):
        for name, model in section.children():
            records.read_custom_model(name, model, draft)
    elif section.keys and "litellm_params" in table:  # a bare model_list
        one = read_deployment(section, draft.notes)
        if one is not None:
            draft.deployments.append(one)
    elif section.keys:
        section.wrong(None, "wants a provider record, a model record or a deployment: system_name is missing")
    else:
        for provider in section.sections("providers"):
            records.read_provider(provider, draft, store, providers)
        models += section.sections("models")
        custom = section.section("custom_models")
        for name, model in custom.children() if custom is not None else ():
            records.read_custom_model(name, model, draft)
        read_config(section, draft)


def _config(
    settings: Settings, environment: Mapping[str, str], draft: Draft, sources: tuple[str, ...], problems: Problems
) -> RoutingConfig:
    """What the files, the flags and the variables say together; a variable that is wrong is reported."""
    fields = dict(draft.fields)
    fields.setdefault("default_model", draft.defaults_model or settings.default_model)
    try:
        fields.setdefault("strategy", _strategy(settings, environment, draft))
    except ValueError as e:
        problems.add("routing strategy", str(e))
    fields.setdefault("max_cost", settings.max_cost)
    fields.setdefault("equivalents", settings.equivalents)
    fields.setdefault("continuation", settings.continuation)
    timers = {**draft.general, **draft.router}
    timers.pop("stream_timeout_s", None)  # a deployment's
    defaults = dict(draft.defaults)
    if settings.default_temp is not None:
        defaults.setdefault("temperature", settings.default_temp)
    made = deployments(draft, defaults, "LITELLM_BASE_URL" in environment)
    redis: RedisConfig | None = None
    try:
        redis = redis_config(draft, environment)
    except ValueError as e:
        problems.add("environment", str(e))
    return RoutingConfig(
        deployments=made,
        aliases=aliases(draft, made),
        fallbacks=draft.fallbacks,
        context_fallbacks=draft.context_fallbacks,
        defaults=defaults,
        cache=cache_config(draft, made),
        redis=redis,
        budgets=tuple(rule for _, rule in draft.budgets),
        callbacks=tuple(draft.callbacks),
        callback_params=draft.callback_params,
        model_limits=draft.model_limits,
        environment=environment,
        enabled=settings.enable_litellm,
        sources=sources,
        notes=tuple(draft.notes),
        mentions=tuple(draft.mentions),
        records=tuple(draft.providers),
        record_models=draft.record_models,
        **fields,
        **timers,
    )


def _strategy(settings: Settings, environment: Mapping[str, str], draft: Draft) -> str | None:
    """The node's own strategy. A flag wins over `CASCADE_ROUTING_ENABLED`, that over `DEFAULT_ROUTING_STRATEGY`.

    A `routing_strategy` of `router_settings` that has no deployment to order, or that stands beside aliases with
    several targets, chooses between those: nothing else could be meant (document 003). Raises ValueError.
    """
    variable = environment.get("DEFAULT_ROUTING_STRATEGY")
    said = settings.routing_strategy
    if said is not None and said != variable:
        return strategy(said)
    if environment.get("CASCADE_ROUTING_ENABLED") == "true":
        return "cascade"
    if variable is not None:
        return strategy(variable)
    several = any(len(targets) > 1 for targets in draft.aliases.values())
    return draft.group_strategy if several or not draft.deployments else None
