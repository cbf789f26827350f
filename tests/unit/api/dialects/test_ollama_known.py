"""Ollama's names found among the cluster's models and the providers'."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exo_node.api.dialects.ollama_known import KnownModels
from exo_node.errors import ModelNotFound
from tests.unit.api.scripted import ScriptedBackend, ScriptedCluster
from tests.unit.api.scripted_routing import ScriptedRouting

ROW = {"id": "fast", "owned_by": "openai"}


class Known(KnownModels):
    def __init__(self) -> None:
        self.backend, self.cluster, self.routing = ScriptedBackend([]), ScriptedCluster(), ScriptedRouting()
        self.routing.rows = [ROW]
        self.now = 0.0
        super().__init__(self.backend, self.cluster, self.routing, lambda: self.now)


async def test_find() -> None:
    """By id, by alias in any case, with a tag; a configured name hides one of ours; short names may be fetched."""
    known = Known()
    for asked, name, model in (
        ("demo:latest", "demo", "demo"),
        ("EXO-demo", "EXO-demo", "demo"),
        ("org/name", "org/name", "org/name"),
        ("llama3.2:1b", "llama-3.2-1b", None),
        ("fast:latest", "fast", None),
        ("nobody", "nobody", None),
    ):
        found = await known.find(asked)
        assert (found.name, found.card.id if found.card else None) == (name, model)
        assert (found.row is not None) == (name == "fast")
    known.routing.rows = [{"id": "openai/gpt-4o", "owned_by": "openai"}]
    known.now = 3.0
    for asked, listed, remote in (("gpt-4o", True, True), ("openai/new", False, True), ("org/new", False, False)):
        found = await known.find(asked)
        assert (found.name, found.row is not None, found.remote) == (asked, listed, remote)
    known.routing.rows = [ROW, {"id": "demo", "owned_by": "openai"}]
    known.now = 6.0
    assert (await known.find("demo")).card is None


async def test_copies() -> None:
    """A copy is found by its name, in any case, and told from the model; names of providers are theirs."""
    known = Known()
    known.backend.cards[0] = replace(known.backend.cards[0], copies=("Mine:1b",))
    known.routing.rows = [ROW, {"id": "groq/llama", "owned_by": "groq"}]
    for asked, name, is_copy in (("Mine:1b", "Mine:1b", True), ("MINE:1b", "Mine:1b", True), ("demo", "demo", False)):
        found = await known.find(asked)
        assert (found.name, found.placed_as, found.is_copy) == (name, "demo", is_copy)
    theirs = [await known.is_theirs(name) for name in ("FAST", "llama", "groq/llama", "gpt-4o", "demo", "new")]
    assert theirs == [True, True, True, True, False, False]


async def test_lists_are_a_moment_old() -> None:
    """A new model is found after that, or when somebody wants the newest."""
    known = Known()
    await known.lists()
    known.routing.rows = []
    known.now = 1.0
    assert (await known.lists())[1] == [ROW]
    assert (await known.lists(fresh=True))[1] == []


async def test_what_there_is_not() -> None:
    """The error lists what there is."""
    with pytest.raises(ModelNotFound, match="demo, org/name, fast"):
        await Known().of_cluster("nobody")


async def test_loaded() -> None:
    """A model is loaded while an instance of it is ready."""
    known = Known()
    found = await known.find("exo-demo")
    assert not known.is_loaded(found)
    known.cluster.placed = [{"id": "i", "model": "demo", "state": "ready"}]
    assert known.is_loaded(found)
