"""The engine's thread: everything of the framework happens here, from loading to the last step.

MLX streams and tinygrad belong to one thread; and a ring of one must not change threads per token, so the head's
scheduler and sampler live here too.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from exo_node.ring.events import Event, Worker
from exo_node.ring.progress import Turns

log = logging.getLogger("exo.runner")

MAX_WAIT_S = 3600.0  # a deadline may be further away than the system can wait


class EngineThread:
    """Owns the thread and its queue. `post` may be called from any thread and never waits."""

    def __init__(
        self, load: Callable[[], Worker], on_dead: Callable[[BaseException], None], turns: Turns | None = None
    ) -> None:
        """`load` runs first, on the thread; `on_dead(error)` is called there if anything escapes. `turns` is told when
        there is work."""
        self._turns = turns or Turns()
        self._load = load
        self._on_dead = on_dead
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def post(self, event: Event) -> None:
        self._events.put(event)

    def stop(self) -> None:
        """End after the running step."""
        self._events.put(None)

    def _run(self) -> None:
        try:
            worker = self._load()
            while self._turn(worker):
                pass
        # A border: whatever ends this thread must end the process with a reason, not leave a mute runner.
        except BaseException as error:
            self._on_dead(error)

    def _turn(self, worker: Worker) -> bool:
        """Handle what has arrived, then one piece of work; waits only where there is neither. False = stop."""
        worked = True
        while True:
            try:
                event = self._events.get_nowait() if worked else self._wait(worker)
            except queue.Empty:
                self._turns.begin(time.monotonic())
                worked = worker.advance()
                self._turns.end(time.monotonic())
                continue
            if event is None:
                return False
            self._turns.begin(time.monotonic())
            worker.handle(event)
            self._turns.end(time.monotonic())
            worked = True

    def _wait(self, worker: Worker) -> Event | None:
        wake_at = worker.wake_at()
        if wake_at is None:
            return self._events.get()
        return self._events.get(timeout=min(MAX_WAIT_S, max(0.001, wake_at - time.monotonic())))
