"""One cell: clients ask, something breaks at its moment, every client must get what it would have got."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from tests.chaos.answers import Answer, Question, Reference, compared, question, read, reference, silence
from tests.chaos.cells import API_NODE, Cell
from tests.chaos.fleet import Fleet, wait

STREAM_S = 300.0  # of silence, after which a client of these tests gives up
MISSED_S = 30.0  # after which a moment that did not come is told as missed
RECOVERY_POLL_S = 0.002


@dataclass(slots=True)
class Outcome:
    """Of one cell. `lost` are faults that a client saw; `trouble` is all else that went wrong."""

    cell: Cell
    kills: int = 0
    gap_ms: float = 0.0
    replayed: int | None = None
    at_token: int = 0  # that the first client had when it happened
    equal: int = 0
    ties: int = 0
    lost: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    recoveries: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    missed: bool = False  # every answer had ended before it happened

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {**asdict(self), "cell": str(self.cell)}


class Client(threading.Thread):
    """Reads one streamed answer, noting when each event came."""

    def __init__(self, fleet: Fleet, asked: Question, on_text: Callable[[int], None] = lambda count: None) -> None:
        """`on_text` is told of each event with text, by its number, in this thread."""
        super().__init__(daemon=True)
        self.start_s = self.end_s = 0.0
        self.events: list[tuple[float, bytes]] = []
        self.count = 0
        self._fleet = fleet
        self._asked = asked
        self._on_text = on_text
        self._fault = ""

    def run(self) -> None:
        body = {**self._asked.body, "stream": True, "stream_options": {"include_usage": True}}
        self.start_s = time.monotonic()
        try:
            connection = self._fleet.api.connection(STREAM_S)
            connection.request("POST", self._asked.path, json.dumps(body), {"Content-Type": "application/json"})
            self._read(connection.getresponse())
            connection.close()
        except (OSError, http.client.HTTPException) as error:
            self._fault = f"{type(error).__name__}: {error}"
        self.end_s = time.monotonic()

    def _read(self, response: http.client.HTTPResponse) -> None:
        if response.status != 200:
            self._fault = f"status {response.status}: {response.read()[:300]!r}"
            return
        while line := response.readline():
            if not line.startswith(b"data: "):
                continue
            data = line.removeprefix(b"data: ").strip()
            self.events.append((time.monotonic(), data))
            if _has_text(data):
                self.count += 1
                self._on_text(self.count)

    def answer(self) -> Answer:
        """What was read by now."""
        found = read(self.events)
        if self._fault:
            found.faults.insert(0, self._fault)
        return found

    def silence_ms(self, struck: float) -> float:
        return 1000 * silence(self.start_s, self.answer().stamps, self.end_s, struck)


def _has_text(data: bytes) -> bool:
    """Whether an event brings text, told without reading it twice: the thread that reads must be fast."""
    return any(field + b'"' in data and field + b'""' not in data for field in (b'"text":', b'"content":'))


class Runner:
    """Runs cells on one fleet; undisturbed answers are asked for once."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._references: dict[str, Reference] = {}
        self._first_s: dict[tuple[str, str, bool], float] = {}  # seconds to the first token, undisturbed

    def run(self, cell: Cell) -> Outcome:
        """Raises nothing that the nodes do; the fleet is healed afterwards, or `trouble` says so."""
        outcome = Outcome(cell)
        began = time.monotonic()
        try:
            asked = self._prepare(cell)
            known = len(self.fleet.recoveries())
            try:
                self._disturb(cell, asked, outcome)
                outcome.recoveries = self.fleet.recoveries()[known:]
                if outcome.recoveries:
                    outcome.replayed = sum(one.get("replayed_tokens") or 0 for one in outcome.recoveries)
            finally:
                self.fleet.heal(revive=bool(cell.seed % 2))
        except (AssertionError, OSError, http.client.HTTPException) as error:
            outcome.trouble.append(f"{type(error).__name__}: {error}")
        outcome.seconds = time.monotonic() - began
        return outcome

    def _prepare(self, cell: Cell) -> list[Question]:
        """The questions, with an undisturbed answer to each."""
        sampled = cell.mode == "exact" and cell.engines != "mixed"  # else a near tie could not be told from a fault
        long = cell.moment == "prefill"
        asked = [
            question(cell.model, number, long=long, sampled=sampled and number % 2 == 1)
            for number in (range(8) if cell.streams > 1 else [cell.seed % 8])
        ]
        key = (cell.model, "long" if long else "short", cell.streams > 1)
        missing = [one for one in asked if json.dumps(one.body) not in self._references]
        if missing or key not in self._first_s:
            ring = next(ring for ring in (cell.ring, "bc") if len(ring) == 2 or ring == cell.ring)
            self._learn(ring, cell.model, missing or asked[:1], key)
        return asked

    def _learn(self, ring: str, model: str, asked: Sequence[Question], key: tuple[str, str, bool]) -> None:
        status, instance = self.fleet.place(ring, model)
        assert status == 200, instance
        client = Client(self.fleet, asked[0])
        client.run()
        stamps = client.answer().stamps
        assert stamps, client.answer().faults
        self._first_s[key] = stamps[0] - client.start_s
        for one in asked:
            chat = "messages" in one.body
            extra: dict[str, Any] = {"logprobs": True, "top_logprobs": 5} if chat else {"logprobs": 5}
            status, answer = self.fleet.api.request("POST", one.path, {**one.body, **extra})
            assert status == 200, answer
            self._references[json.dumps(one.body)] = reference(answer)
        self.fleet.clear()

    def _disturb(self, cell: Cell, asked: Sequence[Question], outcome: Outcome) -> None:
        blow = Blow(self.fleet, cell)
        clients = [
            Client(self.fleet, one, blow.on_text if at == 0 else lambda count: None) for at, one in enumerate(asked)
        ]
        if cell.moment == "loading":
            self._while_loading(cell, blow, clients)
        else:
            status, instance = self.fleet.place(cell.ring, cell.model)
            assert status == 200, instance
            blow.aim()
            for client in clients:
                client.start()
            if cell.moment == "prefill":
                first_s = self._first_s[cell.model, "long", cell.streams > 1]
                time.sleep(first_s * cell.chance("prefill").uniform(0.1, 0.9))
                blow.land()
            elif cell.moment == "recovery":
                blow.again(lambda: any(client.is_alive() for client in clients))
        for client in clients:
            client.join()
        running = [client for client in clients if blow.struck and client.end_s > blow.struck]
        outcome.kills = blow.kills if running else 0
        outcome.at_token = blow.at_token
        outcome.missed = not running
        for client, one in zip(clients, asked, strict=True):
            self._judge(cell, outcome, client, one, blow.struck)

    def _while_loading(self, cell: Cell, blow: Blow, clients: Sequence[Client]) -> None:
        def place() -> None:
            # It may be given up, get another place or no answer at all: clients decide.
            with contextlib.suppress(OSError, http.client.HTTPException):
                body = {"model": cell.model, "nodes": [*cell.ring], "min_nodes": len(cell.ring)}
                self.fleet.api.request("POST", "/v1/instances", body)

        placing = threading.Thread(target=place, daemon=True)
        placing.start()
        wait(lambda: all(self.fleet.nodes[one].runners() for one in cell.ring), lambda: "no runner was started")
        for client in clients:
            client.start()
        time.sleep(cell.chance("loading").uniform(0, 0.5))
        blow.aim()
        blow.land()
        placing.join()

    def _judge(self, cell: Cell, outcome: Outcome, client: Client, asked: Question, struck: float) -> None:
        wanted = self._references[json.dumps(asked.body)]
        before = len(read([event for event in client.events if event[0] <= struck]).text)
        exact = cell.mode == "exact" and cell.engines != "mixed"
        fault = compared(client.answer(), wanted, before, exact)
        outcome.equal += fault == ""
        outcome.ties += fault == "tie"
        if fault not in ("", "tie"):
            outcome.lost.append(fault)
        outcome.gap_ms = max(outcome.gap_ms, client.silence_ms(struck))


class Blow:
    """What hits the ring: aimed beforehand, so that it lands within a millisecond of its moment."""

    def __init__(self, fleet: Fleet, cell: Cell) -> None:
        self.struck = 0.0
        self.kills = 0
        self.at_token = 0
        self._fleet = fleet
        self._cell = cell
        self._aimed: list[psutil.Process] = []
        self._known: set[int] = set()
        self._shown: object = None
        self._landed = threading.Event()

    def aim(self) -> None:
        """At what is there now."""
        cell = self._cell
        if cell.how != "cut":
            self._aimed = [one for at in cell.targets for one in self._fleet.processes(at, cell.runner_only)]
            assert self._aimed, "there is nothing to hit"
        self._known = {one.pid for node in self._fleet.nodes.values() for one in node.runners()}
        self._shown = self._fleet.api.topology()["instances"]

    def on_text(self, count: int) -> None:
        """Land when the first client has its tokens (in that client's thread)."""
        self.at_token = count if not self.struck else self.at_token
        if count == self._cell.trigger:
            self.land()

    def land(self) -> None:
        cell = self._cell
        self.struck = time.monotonic()
        if cell.victim == "peer" and cell.moment == "recovery":  # its own death breaks no ring: something else must
            self._fleet.strike("kill", self._fleet.nodes[cell.ring[-1]].runners(), "")
            self.kills += 1
        else:
            self._fleet.strike(cell.how, self._aimed, cell.targets)
            self.kills += len(cell.targets)
        self._landed.set()

    def again(self, going_on: Callable[[], bool]) -> None:
        """Once more as soon as a recovery shows: whatever takes part in it, but the clients' node."""
        chance = self._cell.chance("again")
        deadline = time.monotonic() + MISSED_S
        while not (self._landed.is_set() and self._recovering()):
            if not going_on() or time.monotonic() > deadline:
                return
            time.sleep(RECOVERY_POLL_S)
        time.sleep(chance.uniform(0, 0.2))
        fleet, targets = self._fleet, self._cell.targets
        if self._cell.victim == "peer":
            fleet.strike(self._cell.how, self._aimed, targets)
            self.kills += 1
            return
        fresh = [one for node in fleet.nodes.values() for one in node.runners() if one.pid not in self._known]
        left = [letter for letter in fleet.nodes if letter not in (API_NODE, *targets)]
        if fresh and chance.random() < 0.5:
            hit, letters = [chance.choice(fresh)], ""
        else:
            letters = chance.choice(left)
            hit = fleet.processes(letters, runner_only=False)
        if going_on():
            fleet.strike("kill", hit, letters)
            self.kills += 1

    def _recovering(self) -> bool:
        """New runners, or an instance that is not what it was."""
        if any(one.pid not in self._known for node in self._fleet.nodes.values() for one in node.runners()):
            return True
        return bool(self._fleet.api.topology()["instances"] != self._shown)
