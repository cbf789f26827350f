"""A few telling cells of the matrix; the whole of it is `scripts/chaos`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.cells import parse
from tests.chaos.fleet import Fleet
from tests.chaos.hosts import Hosts, hosts_or_reason
from tests.chaos.matrix import line
from tests.chaos.running import Runner

# Of one fleet of three nodes, and of questions that are answered undisturbed once: the suite's time is short.
NODES = "abc"
CELLS = [
    "follower-runner:kill:t16:mlx:x8:exact:demo:bc:c:1",
    "head-node:kill:first:mlx:x1:exact:demo:bac:b:4",
    "follower-node:kill:recovery:mlx:x1:exact:demo:cb:b:6",
]
LONGER = [
    "head-runner:stop:t32:mlx:x1:exact:demo:ab:a:3",
    "follower-node:cut:t48:mlx:x1:exact:demo:ac:c:5",
]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts | str]:
    found = hosts_or_reason()
    yield found
    if isinstance(found, Hosts):
        found.close()


@pytest.fixture(scope="module")
def runner(hosts: Hosts | str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    usable = None if isinstance(hosts, str) else hosts
    with Fleet(tmp_path_factory.mktemp("chaos"), "mlx", "exact", usable, letters=NODES) as fleet:
        yield Runner(fleet)


@pytest.mark.engine_mlx
@pytest.mark.parametrize("name", [*CELLS, *(pytest.param(one, marks=pytest.mark.soak) for one in LONGER)])
def test_no_client_loses_a_byte(runner: Runner, hosts: Hosts | str, name: str) -> None:
    """Whatever dies, every answer is whole: its bytes, its end and its usage are the undisturbed run's."""
    cell = parse(name)
    if cell.how == "cut" and isinstance(hosts, str):
        pytest.skip(hosts)
    outcome = runner.run(cell)
    print(line(outcome))
    faults = (*outcome.lost, *outcome.trouble)
    assert not faults, "\n".join((*faults, *(text[-4000:] for _, text in runner.fleet.logs())))
