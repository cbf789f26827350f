"""A few telling cells of the matrix; the whole of it is `scripts/chaos`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.cells import Cell, parse
from tests.chaos.fleet import Fleet
from tests.chaos.hosts import Hosts, hosts_or_reason
from tests.chaos.matrix import line
from tests.chaos.running import Runner
from tests.integration.harness import SHARED_MODELS

CELLS = [
    "follower-runner:kill:t16:mlx:x8:exact:demo:bc:c:1",
    "head-runner:stop:t32:mlx:x1:exact:demo:ab:a:3",
    "two-nodes:kill:recovery:mlx:x1:exact:demo:cb:bc:6",
]
LONGER = [
    "head-node:kill:first:mlx:x8:exact:stories260K:bcd:b:4",
    "follower-node:cut:prefill:mlx:x1:exact:demo:ad:d:5",
    "follower-runner:kill:t16:mixed:x1:plain:demo:bc:c:7",
]
FLEETS: dict[tuple[str, str], tuple[str, str]] = {}


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts | str]:
    found = hosts_or_reason()
    yield found
    if isinstance(found, Hosts):
        found.close()


@pytest.fixture(scope="module")
def runner(
    request: pytest.FixtureRequest, hosts: Hosts | str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runner]:
    """The cells of one kind of fleet share it."""
    engines, mode = request.param
    usable = None if isinstance(hosts, str) else hosts
    with Fleet(tmp_path_factory.mktemp("chaos"), engines, mode, usable) as fleet:
        yield Runner(fleet)


def _case(text: str, *, soak: bool = False) -> object:
    cell = parse(text)
    engines = {"mlx": ["mlx"], "tinygrad": ["tinygrad"], "mixed": ["mlx", "tinygrad"]}[cell.engines]
    marks = [getattr(pytest.mark, f"engine_{one}") for one in engines]
    if soak:
        marks.append(pytest.mark.soak)
    if cell.model != "demo" and not (SHARED_MODELS / cell.model).is_dir():
        marks.append(pytest.mark.skip(reason=f"no ../shared/models/{cell.model} beside the repository"))
    fleet = FLEETS.setdefault(cell.fleet, cell.fleet)  # pytest keeps a fixture while its parameter is the same object
    return pytest.param(fleet, cell, id=text, marks=marks)


CASES = [*map(_case, CELLS), *(_case(one, soak=True) for one in LONGER)]


@pytest.mark.parametrize(("runner", "cell"), CASES, indirect=["runner"])
def test_no_client_loses_a_byte(runner: Runner, hosts: Hosts | str, cell: Cell) -> None:
    """Whatever dies, every answer is whole: its bytes, its end and its usage are the undisturbed run's."""
    if cell.how == "cut" and isinstance(hosts, str):
        pytest.skip(hosts)
    outcome = runner.run(cell)
    print(line(outcome))
    assert not outcome.lost, "\n".join((*outcome.lost, *(text[-4000:] for _, text in runner.fleet.logs())))
    assert not outcome.trouble, "\n".join((*outcome.trouble, *(text[-4000:] for _, text in runner.fleet.logs())))
