"""End a thread's MLX streams before the thread ends.

Streams belong to a thread (ENGINES.md 1). A thread that ends with streams of its own sometimes takes the process with
it ("terminate called without an active exception", about one run in two with mlx 0.32.4); after `clear_streams` it
never did. But that also takes the streams from whatever else runs on the thread, so engines are counted by thread.
"""

from __future__ import annotations

import threading
from typing import Any


class ThreadStreams:
    """How many engines live on the calling thread, and whether its streams have been given up."""

    def __init__(self) -> None:
        self._local = threading.local()

    def enter(self, mx: Any, device: Any) -> None:
        """An engine begins on this thread; make a stream again if the thread has given its own up."""
        if getattr(self._local, "cleared", False):
            mx.set_default_stream(mx.new_stream(device))
            self._local.cleared = False
        self._local.engines = getattr(self._local, "engines", 0) + 1

    def leave(self, mx: Any) -> None:
        """An engine has ended; with the last of a thread its streams end (the main thread's live as long as MLX)."""
        self._local.engines -= 1
        if self._local.engines == 0 and threading.current_thread() is not threading.main_thread():
            mx.synchronize()
            mx.clear_streams()
            self._local.cleared = True
