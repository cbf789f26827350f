"""The whole matrix: `scripts/chaos [--seed N] [--kills 500] [--only CELL]`; see README.md.

Prints a line for each cell as it ends, then a table of gaps, and the loss rate that so many kills show.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):  # runners share the cores: tests/conftest.py
    os.environ.setdefault(_variable, "1")

from tests.chaos.cells import ENGINES, MODELS, Cell, drawn, parse  # noqa: E402
from tests.chaos.fleet import Fleet, load  # noqa: E402
from tests.chaos.hosts import Hosts, hosts_or_reason  # noqa: E402
from tests.chaos.matrix import line, table  # noqa: E402
from tests.chaos.running import Outcome, Runner  # noqa: E402
from tests.integration.harness import SHARED_MODELS  # noqa: E402

KEPT = ROOT / "build" / "chaos"  # logs of the nodes of cells that failed


def main() -> int:
    """The exit status is 1 where a stream was lost or a fleet did not heal."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description="Kill parts of rings that answer.")
    parser.add_argument("--seed", type=int, help="of what is drawn (default: a new one, printed)")
    parser.add_argument("--kills", type=int, default=500, help="at least so many (500)")
    parser.add_argument("--only", metavar="CELL", action="append", help="run this cell, as printed (repeatable)")
    parser.add_argument("--engines", choices=ENGINES, action="append", help="only rings of these (repeatable)")
    parser.add_argument("--no-links", action="store_true", help="make no network namespaces, cut no links")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write each cell's outcome there, a line each")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nodes are ended then too
    hosts = "switched off" if arguments.no_links else hosts_or_reason()
    if isinstance(hosts, str):
        print(f"chaos: no links are cut: {hosts}")
    try:
        return run(arguments, None if isinstance(hosts, str) else hosts)
    finally:
        if isinstance(hosts, Hosts):
            hosts.close()


def run(arguments: argparse.Namespace, hosts: Hosts | None) -> int:
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    models = [one for one in MODELS if one == "demo" or (SHARED_MODELS / one).is_dir()]
    if len(models) < len(MODELS):
        print(f"chaos: only {', '.join(models)}: the others are not in {SHARED_MODELS}")
    if arguments.only:
        cells = [parse(one) for one in arguments.only]
    else:
        wanted = arguments.kills
        cells = drawn(seed, wanted if not arguments.engines else 4 * wanted, models, hosts is not None)
        if arguments.engines:
            cells = trimmed([one for one in cells if one.engines in arguments.engines], wanted)
    print(f"chaos: seed {seed}, {len(cells)} cells, {sum(one.kills for one in cells)} kills; {load()}", flush=True)
    outcomes: list[Outcome] = []
    at = 0
    try:
        while at < len(cells):
            group = [one for one in cells[at:] if one.fleet == cells[at].fleet]
            at += on_one_fleet(group, hosts, outcomes, len(cells), arguments.json)
    finally:  # interrupted, it still tells what was seen
        print(table(outcomes))
        print(f"chaos: {load()}", flush=True)
    return int(any(one.lost or one.trouble for one in outcomes))


def trimmed(cells: Sequence[Cell], kills: int) -> list[Cell]:
    """As many of them as have so many kills."""
    found: list[Cell] = []
    for one in cells:
        if sum(each.kills for each in found) >= kills:
            break
        found.append(one)
    return found


def on_one_fleet(
    cells: Sequence[Cell], hosts: Hosts | None, outcomes: list[Outcome], whole: int, record: Path | None
) -> int:
    """Run cells on fresh daemons, up to the first after which they did not heal; how many were run."""
    engines, mode = cells[0].fleet
    with tempfile.TemporaryDirectory(prefix="exo-chaos-") as folder:
        try:
            fleet = Fleet(Path(folder), engines, mode, hosts).__enter__()
        except AssertionError as error:
            outcomes.append(Outcome(cells[0], trouble=[f"the nodes did not start: {error}"]))
            print(f"{len(outcomes)}/{whole} {line(outcomes[-1])}", flush=True)
            return 1
        try:
            runner = Runner(fleet)
            for number, cell in enumerate(cells, start=1):
                began = time.time()
                outcome = runner.run(cell)
                outcomes.append(outcome)
                print(f"{len(outcomes)}/{whole} {line(outcome)}", flush=True)
                if record is not None:
                    with record.open("a") as file:
                        file.write(json.dumps(outcome.as_json()) + "\n")
                if outcome.lost or outcome.trouble:
                    keep(fleet, cell, outcome, began)
                if outcome.trouble:
                    return number
            return len(cells)
        finally:
            try:
                fleet.__exit__()
            except AssertionError as error:
                outcomes[-1].trouble.append(f"at the end: {error}")
                print(f"  trouble at the end: {str(error)[:300]}", flush=True)


def keep(fleet: Fleet, cell: Cell, outcome: Outcome, since: float) -> None:
    """The logs of a cell that failed, and what its clients read, for whoever looks into it."""
    folder = KEPT / str(cell).replace(":", "_")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in fleet.logs(since):
        (folder / name).write_text(text[-200_000:])
    (folder / "outcome.json").write_text(json.dumps(outcome.as_json(), indent=1))
    print(f"  kept {folder.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
