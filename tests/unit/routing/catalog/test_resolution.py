"""From a name to its backends; `test_registry.py` tests the rules through the registry."""

from __future__ import annotations

from dataclasses import replace

from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.providers import complete
from exo_node.routing.catalog.resolution import Resolver, backend_id
from exo_node.routing.catalog.tables import load_tables
from exo_node.routing.deployment import Deployment

TABLES = load_tables()
EQUIVALENTS = Equivalents(TABLES)
DEMO = LocalModel(id="demo", loaded=True)


def dep(name: str, model: str, node_id: str = "") -> Deployment:
    one = Deployment(id=name, model_name=name, litellm_model=model, provider="", upstream_model="", node_id=node_id)
    return complete(one, {}, TABLES)


def resolver(*deployments: Deployment, aliases: dict[str, tuple[str, ...]] | None = None) -> Resolver:
    return Resolver(TABLES, EQUIVALENTS, deployments, (), (DEMO,), {}, aliases or {}, None)


def test_names_of_backends() -> None:
    """ring:MODEL, a deployment's id, and ID@NODE of a peer's."""
    assert backend_id(DEMO) == "ring:demo"
    assert backend_id(dep("a", "openai/x")) == "a"
    assert backend_id(dep("a", "openai/x", "node-b")) == "a@node-b"


def test_the_narrowest_wildcard_counts() -> None:
    """Of several patterns that fit a name the longest serves it."""
    found = resolver(dep("openai/*", "openai/*"), dep("openai/gpt-4*", "azure/gpt-4*")).find("openai/gpt-4-new")
    assert [one.backend.litellm_model for one in found if isinstance(one.backend, Deployment)] == ["azure/gpt-4-new"]
    assert [one.group for one in found] == ["openai/gpt-4*"]


def test_everything_of_one_model() -> None:
    """Configured deployments of a model are found by its id, whatever they are called here."""
    one, other = dep("prod", "azure/gpt-4o-eu"), dep("other", "openai/gpt-4o-mini")
    assert resolver(one, other).same("openai/gpt-4o") == [one]


def test_what_would_have_to_be_fetched_stands_in_for_nothing() -> None:
    """A model that is not here serves its own name and is the same as no other name's."""
    away = LocalModel(id="llama-3.3-70b", loaded=False, here=False)
    there = replace(away, here=True)
    for model, same in ((away, []), (there, [there])):
        made = Resolver(TABLES, EQUIVALENTS, (), (), (model,), {}, {}, None)
        assert [one.backend for one in made.find("llama-3.3-70b")] == [model]
        assert made.same(made.id_of_local(model) or "") == same


def test_a_mere_alias() -> None:
    """An alias that is a deployment, or one of its own targets, is more than an alias."""
    aliases = {"fast": ("a",), "gpt-4": ("gpt-4", "a"), "a": ("b",)}
    made = resolver(dep("a", "openai/x"), aliases=aliases)
    assert [made.is_mere_alias(name) for name in ("fast", "gpt-4", "a", "nobody")] == [True, False, False, False]
    assert [made.kind(name, None) for name in ("fast", "a", "demo")] == ["alias", "deployment", "local"]


def test_the_proxy_stands_in_for_a_key() -> None:
    """A prefixed name whose provider has no key here goes to the upstream proxy, after the provider; else not there."""

    def backends(**env: str) -> list[str]:
        made = Resolver(TABLES, EQUIVALENTS, (), (), (), {"LITELLM_BASE_URL": "http://p:4000", **env}, {}, None)
        return [backend_id(one.backend) for one in made.find("anthropic/claude-x") if one.later]

    assert backends() == ["auto:litellm_proxy/anthropic/claude-x"]
    assert backends(ANTHROPIC_API_KEY="k") == []


def test_the_nodes_defaults_hold_without_a_configuration() -> None:
    """A deployment that is made of a key in the environment has the node's request defaults."""
    made = Resolver(TABLES, EQUIVALENTS, (), (), (), {"OPENAI_API_KEY": "k"}, {}, None, defaults={"temperature": 0.2})
    (found,) = made.find("gpt-4o")
    assert isinstance(found.backend, Deployment) and found.backend.defaults == {"temperature": 0.2}
