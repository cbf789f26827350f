"""The engine's thread."""

from __future__ import annotations

import threading
import time

from exo_node.ring.events import Cancel, Event
from exo_node.ring.runner_engine import EngineThread
from exo_node.ring.stage import Stage


class Recorder:
    """A worker that has three pieces of work after each event, and notes on which thread it ran."""

    stage: Stage

    def __init__(self) -> None:
        self.log: list[str] = []
        self.work = 0
        self.threads = {threading.get_ident()}
        self.idle = threading.Event()
        self.deadline: float | None = None

    def handle(self, event: Event) -> None:
        if isinstance(event, Cancel) and event.ticket < 0:
            raise RuntimeError("a bug")
        self.log.append("event")
        self.threads.add(threading.get_ident())
        self.work = 3

    def advance(self) -> bool:
        if not self.work:
            self.idle.set()
            return False
        self.work -= 1
        self.log.append("work")
        return True

    def wake_at(self) -> float | None:
        return self.deadline


def test_events_come_before_work_and_all_on_one_thread() -> None:
    """What has arrived is handled first; then one piece of work at a time."""
    made: list[Recorder] = []

    def load() -> Recorder:
        made.append(Recorder())
        return made[0]

    thread = EngineThread(load, lambda error: None)
    thread.post(Cancel(1))
    thread.post(Cancel(2))
    thread.start()
    deadline = time.monotonic() + 10
    while (not made or len(made[0].log) < 5) and time.monotonic() < deadline:
        time.sleep(0.001)
    thread.stop()
    assert made[0].log == ["event", "event", "work", "work", "work"]
    assert len(made[0].threads) == 1
    assert threading.get_ident() not in made[0].threads


def test_an_error_that_escapes_is_told() -> None:
    """A bug ends the thread with word, in loading and later."""
    for fails_in_load in (True, False):
        told: list[BaseException] = []
        done = threading.Event()

        def load(fails: bool = fails_in_load) -> Recorder:
            if fails:
                raise RuntimeError("a bug")
            return Recorder()

        def dead(error: BaseException, told: list[BaseException] = told, done: threading.Event = done) -> None:
            told.append(error)
            done.set()

        thread = EngineThread(load, dead)
        thread.post(Cancel(-1))
        thread.start()
        assert done.wait(10)
        assert str(told[0]) == "a bug"


def test_a_worker_is_woken_at_its_deadline() -> None:
    """`wake_at` makes the thread look for work without an event."""
    made: list[Recorder] = []

    def load() -> Recorder:
        recorder = Recorder()
        recorder.deadline = time.monotonic() + 0.02
        made.append(recorder)
        return recorder

    thread = EngineThread(load, lambda error: None)
    thread.start()
    while not made:
        time.sleep(0.001)
    assert made[0].idle.wait(10)
    made[0].idle.clear()
    assert made[0].idle.wait(10)  # again, with no event at all
    thread.stop()


def test_a_deadline_beyond_all_clocks() -> None:
    """A time to wait that the system cannot wait ends nothing: the next event is handled."""
    recorder = Recorder()
    recorder.deadline = time.monotonic() + 2.0**62
    ended: list[BaseException] = []
    thread = EngineThread(lambda: recorder, ended.append)
    thread.start()
    for _ in range(2):
        recorder.idle.clear()
        thread.post(Cancel(1))
        assert recorder.idle.wait(10)
    thread.stop()
    assert ended == []
