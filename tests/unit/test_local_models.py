"""local_models.py: the ring's models as the registry sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from exo_node.local_models import FRESH_S, LocalModels
from exo_node.models.catalog import Catalog
from exo_node.routing.catalog.names import find_local
from exo_node.types import Instance, ModelCard


class Instances:
    """`running` instances over one model on the disk; counts how often the disk is read."""

    def __init__(self) -> None:
        self.running: list[Instance] = []
        self.reads = 0

    def all(self) -> list[Instance]:
        return self.running

    def models(self) -> list[ModelCard]:
        self.reads += 1
        return [ModelCard(id="demo", created=0, owned_by="exo", context_length=100_000, loaded=bool(self.running))]


def instance(state: Literal["loading", "ready"]) -> Instance:
    return Instance(
        instance_id="i", model_id="demo", digest="", assignments=(), addresses=(), coordinator="", epoch=1,
        context=1024, slots=4, state=state,
    )  # fmt: skip


@pytest.fixture
def stage(tmp_path: Path) -> tuple[Instances, LocalModels, list[float]]:
    """The instances, what is made of them, and the clock."""
    instances, now = Instances(), [0.0]
    catalog = Catalog((), tmp_path, offline=False, hf_home=tmp_path)
    return instances, LocalModels(instances, catalog, 8192, lambda: False, clock=lambda: now[0]), now


def test_loaded_here_and_to_be_fetched(stage: tuple[Instances, LocalModels, list[float]]) -> None:
    """A loaded model has its slots and no wait; one on the disk waits a little; the hub's are not here."""
    instances, local, _ = stage
    demo, *others = local()
    assert (demo.id, demo.loaded, demo.here, demo.context) == ("demo", False, True, 8192)
    assert demo.cold_s > 0
    assert others
    assert not any(one.here or one.loaded for one in others)
    instances.running = [instance("ready"), instance("loading")]
    loaded = local()[0]
    assert (loaded.loaded, loaded.slots, loaded.context, loaded.cold_s) == (True, 4, 1024, 0.0)


def test_the_disk_is_read_seldom(stage: tuple[Instances, LocalModels, list[float]]) -> None:
    """Again after a while, and at once when an instance comes or goes."""
    instances, local, now = stage
    assert local() is local()
    now[0] = 1.0
    instances.running = [instance("ready")]
    assert local()[0].loaded
    assert instances.reads == 2
    now[0] = 4.0
    local()
    assert instances.reads == 3


def test_copies_are_known_at_once(tmp_path: Path) -> None:
    """A copy is a name of its model as soon as it is made, and no longer when it is removed."""
    catalog = Catalog((), tmp_path, offline=True, hf_home=tmp_path)
    instances = Instances()
    instances.models = lambda: catalog.cards(set())  # type: ignore[method-assign]
    local = LocalModels(instances, catalog, 8192, lambda: False, clock=lambda: 0.0)
    assert find_local("mine:1b", local()) is None
    catalog.copy("demo", "Mine:1b")
    found = find_local("mine:1b", local())
    assert found is not None
    assert (found.id, found.copies, found.aliases) == ("demo", ("Mine:1b",), ())
    catalog.remove("mine:1b")
    assert find_local("mine:1b", local()) is None


def test_names_of_others_are_known_soon(tmp_path: Path) -> None:
    """What another node of this home, or a person, writes into the file counts after a while: no call looks there."""
    ours, theirs = (Catalog((), tmp_path, offline=True, hf_home=tmp_path) for _ in range(2))
    instances, now = Instances(), [0.0]
    instances.models = lambda: ours.cards(set())  # type: ignore[method-assign]
    local = LocalModels(instances, ours, 8192, lambda: False, clock=lambda: now[0])
    before = local()
    theirs.copy("demo", "mine")
    assert local() is before
    now[0] = FRESH_S + 0.1
    assert find_local("mine", local()) is not None


def test_what_could_be_fetched(stage: tuple[Instances, LocalModels, list[float]], tmp_path: Path) -> None:
    """A repository or a short name; any name where a peer may hold it; offline a repository, for the ring to tell."""
    _, local, _ = stage
    assert [local.fetchable(name) is None for name in ("org/name", "llama-3.2-1b", "../demo", "nobody")] == [
        False, False, True, True,
    ]  # fmt: skip
    catalog = Catalog((), tmp_path, offline=True, hf_home=tmp_path)
    offline = LocalModels(Instances(), catalog, 8192, lambda: False)
    assert offline.fetchable("org/name") is not None
    assert offline.fetchable("nobody") is None
    with_peers = LocalModels(Instances(), catalog, 8192, lambda: True)
    assert with_peers.fetchable("nobody") is not None
