"""Which way a name goes, by kind, and near local names."""

from __future__ import annotations

import pytest

from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.names import (
    LocalModel,
    find_local,
    find_near,
    kind_of,
    not_found_text,
    proxy_moves,
)
from exo_node.routing.catalog.tables import load_tables

TABLES = load_tables()
EQUIVALENTS = Equivalents(TABLES)
LOCAL = (
    LocalModel(id="unsloth/Llama-3.2-1B-Instruct", loaded=False, aliases=("llama-3.2-1b",)),
    LocalModel(id="org/Llama-3.2-1B-Instruct-4bit", loaded=True),
    LocalModel(id="claude-local", loaded=True),
    LocalModel(id="demo", loaded=True),
)


@pytest.mark.parametrize(
    ("name", "provider", "kind"),
    [
        ("prod", None, "deployment"),  # (1) configured
        ("demo-group", None, "deployment"),
        ("fast", None, "alias"),
        ("anthropic/claude-3-opus", None, "provider"),
        ("google/gemini-pro", None, "provider"),
        ("watsonx/ibm-granite", None, "provider"),
        ("llama3.2", "ollama", "provider"),  # the field wins over everything
        ("demo", "openai", "provider"),
        ("demo", None, "local"),  # (2)
        ("llama-3.2-1b", None, "local"),
        ("LLAMA-3.2-1B", None, "local"),
        ("claude-local", None, "local"),  # before (3)
        ("gpt-4", None, "cloud"),  # (3)
        ("llama-2-70b", None, "cloud"),
        ("mixtral-8x7b", None, "cloud"),
        ("house-model", None, "unknown"),  # (4)
        ("mlx-community/unknown-model", None, "unknown"),
        ("demo", "ring", "local"),
    ],
)
def test_kinds(name: str, provider: str | None, kind: str) -> None:
    """The four rules, in their order."""
    found = kind_of(
        name, provider=provider, deployments={"prod", "demo-group"}, aliases={"fast"}, local=LOCAL, tables=TABLES,
        equivalents=EQUIVALENTS,
    )  # fmt: skip
    assert found == kind


def test_a_local_model_is_found_by_its_names() -> None:
    """The exact id first, then id and aliases in any case."""
    found = [find_local(name, LOCAL) for name in ("demo", "DEMO", "Llama-3.2-1b", "nobody")]
    assert [one.id if one else None for one in found] == ["demo", "demo", "unsloth/Llama-3.2-1B-Instruct", None]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("llama-3.2-1b-instruct", "unsloth/Llama-3.2-1B-Instruct"),
        ("meta-llama/Llama-3.2-1B-Instruct-4bit", "org/Llama-3.2-1B-Instruct-4bit"),
        ("llama-3.2", "unsloth/Llama-3.2-1B-Instruct"),
        ("llama-3.2-3b", None),  # another size is another model
        ("1b", None),
        ("lama-3.2-1b", None),  # a typo is told, not guessed
        ("///", None),
        ("../demo", None),  # a path is near to nothing
        ("org/../demo", None),
        ("%2e%2e/demo", None),
    ],
)
def test_near_names(name: str, found: str | None) -> None:
    """A near name has every word of the asked one in order, from the first; the shortest counts."""
    near = find_near(name, LOCAL)
    assert (near.id if near else None) == found


def test_a_near_name_must_be_loadable() -> None:
    """What cannot be loaded is not offered under a name that nobody said."""
    stuck = LocalModel(id="org/Big-70B-Instruct", loaded=False, loadable=False, reason="too large")
    away = LocalModel(id="org/Big-70B-Instruct", loaded=False, here=False)
    assert find_near("big-70b", (stuck, away)) is None


@pytest.mark.parametrize(
    ("env", "moves"),
    [
        ({}, False),
        ({"USE_LITELLM": "true"}, True),
        ({"LITELLM_URL": "http://l:4000"}, True),
        ({"LITELLM_BASE_URL": "http://l:4000"}, True),
        ({"LITELLM_URL": "http://l:4000", "USE_LITELLM": "false"}, False),
    ],
)
def test_what_moves_cloud_names_to_litellm(env: dict[str, str], moves: bool) -> None:
    """USE_LITELLM or the address of a proxy; an explicit USE_LITELLM has the last word."""
    assert proxy_moves(env) == moves


def test_the_404_lists_what_there_is() -> None:
    """Near names first, then everything, cut where it is much."""
    text = not_found_text("gtp-4o", ["gpt-4o", "demo"], why="it is gone")
    assert text == "no model 'gtp-4o': it is gone (did you mean 'gpt-4o'?); there are: demo, gpt-4o"
    assert "did you mean" not in not_found_text("x", ["x"])
    assert "and 10 more" in not_found_text("x", [f"m{n}" for n in range(50)])
    assert not_found_text("x", ["a", "b"], first=["b"]).endswith("there are: b, a")
    assert not_found_text("x", []) == "no model 'x'; there are: nothing"
