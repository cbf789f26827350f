"""Clients of every dialect that ask all the time, hang up now and then, and compare each whole answer."""

from __future__ import annotations

import collections
import http.client
import json
import random
import threading
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.dialects import DIALECTS, Dialect, events, words
from tests.chaos.fleet import Fleet

TOKENS = (8, 64, 120)  # of an answer
QUESTIONS = 8
CANCELLED = 0.15  # of the streams are left in the middle
WAITED_S = 120.0


@dataclass(slots=True)
class Counts:
    """What came of all requests. `lost` has a line for each that ended wrongly."""

    ended: collections.Counter[str] = field(default_factory=collections.Counter)
    lost: list[str] = field(default_factory=list)


class Load:
    """`clients` threads that ask until they are told to pause."""

    def __init__(self, fleet: Fleet, clients: int, seed: int) -> None:
        self.counts = Counts()
        self._fleet = fleet
        self._clients = clients
        self._seed = seed
        self._wanted: dict[tuple[str, int, int], str] = {}
        self._threads: list[threading.Thread] = []
        self._pause = threading.Event()
        self._rounds = 0
        self._lock = threading.Lock()

    def learn(self) -> None:
        """The undisturbed answers; nothing else may be going on."""
        for dialect in DIALECTS:
            for number in range(QUESTIONS):
                for tokens in TOKENS:
                    status, answer = self._plain(dialect, number, tokens)
                    assert status == 200, answer
                    text, ended = dialect.whole(answer)
                    assert ended and text, answer
                    self._wanted[dialect.name, number, tokens] = text

    def start(self) -> None:
        self._pause.clear()
        self._rounds += 1
        self._threads = [
            threading.Thread(target=self._ask_on, args=(random.Random(f"{self._seed}/{self._rounds}/{one}"),))
            for one in range(self._clients)
        ]
        for thread in self._threads:
            thread.start()

    def pause(self) -> None:
        """Ask no more; returns when every answer has ended."""
        self._pause.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self, chance: random.Random) -> None:
        while not self._pause.is_set():
            dialect = chance.choice(DIALECTS)
            number, tokens = chance.randrange(QUESTIONS), chance.choice(TOKENS)
            kind = chance.choices(("plain", "stream", "cancel"), (0.35, 0.65 - CANCELLED, CANCELLED))[0]
            try:
                fault = self._ask(dialect, number, tokens, kind, chance)
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
                fault = f"{type(error).__name__}: {error}"
            with self._lock:
                self.counts.ended[f"{kind} {fault}" if fault.isdigit() else kind] += 1
                if fault and not fault.isdigit():
                    self.counts.lost.append(f"{dialect.name} {kind} {number}/{tokens}: {fault}")

    def _ask(self, dialect: Dialect, number: int, tokens: int, kind: str, chance: random.Random) -> str:
        """What is wrong with an answer; the status of one that was refused as it may be (503 with Retry-After)."""
        if kind == "plain":
            status, answer = self._plain(dialect, number, tokens)
            if status == 503 and answer is None:
                return "503"
            if status != 200:
                return f"status {status}: {answer}"
            text, ended = dialect.whole(answer)
        else:
            leave = chance.randrange(1, 20) if kind == "cancel" else 0
            text, ended = self._streamed(dialect, number, tokens, leave)
            if leave:
                return ""
        wanted = self._wanted[dialect.name, number, tokens]
        if not ended:
            return f"no end after {len(text)} of {len(wanted)} characters: {text[-40:]!r}"
        return "" if text == wanted else f"{text!r} instead of {wanted!r}"

    def _plain(self, dialect: Dialect, number: int, tokens: int) -> tuple[int, Any]:
        connection, answer = self._send(dialect, number, tokens, False)
        try:
            body = answer.read()
            if answer.status == 503 and answer.getheader("Retry-After"):
                return 503, None
            return answer.status, json.loads(body)
        finally:
            connection.close()

    def _streamed(self, dialect: Dialect, number: int, tokens: int, leave: int) -> tuple[str, bool]:
        connection, answer = self._send(dialect, number, tokens, True)
        try:
            if answer.status != 200:
                raise ValueError(f"status {answer.status}: {answer.read()[:300]!r}")
            lines = []
            while line := answer.readline():
                lines.append(line)
                if leave and len(lines) > leave:
                    return "", False
            found = events(lines)
            if errors := [one for one in found if one.get("error")]:
                raise ValueError(f"error event: {str(errors[0])[:300]}")
            return dialect.told(found)
        finally:
            connection.close()

    def _send(
        self, dialect: Dialect, number: int, tokens: int, stream: bool
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        body = {**dialect.body(words(number), tokens), "stream": stream}
        connection = self._fleet.api.connection(WAITED_S)
        try:
            connection.request("POST", dialect.path, json.dumps(body), {"Content-Type": "application/json"})
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise
