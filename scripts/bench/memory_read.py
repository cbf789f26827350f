"""How fast this machine's memory is read: the limit of decoding, which reads all weights for each token."""

from __future__ import annotations

from line_process import LineProcess

# numpy's dot of a slice with itself: one pass of a BLAS over it, without Python's lock; a thread for each slice.
CODE = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
threads, nbytes = int(sys.argv[1]), int(sys.argv[2])
slices = np.array_split(np.ones(nbytes // 4, np.float32), threads)
pool = ThreadPoolExecutor(threads)
list(pool.map(lambda one: np.dot(one, one), slices))
for line in sys.stdin:
    best = 0.0
    for _ in range(json.loads(line)["times"]):
        begun = time.perf_counter()
        list(pool.map(lambda one: np.dot(one, one), slices))
        best = max(best, nbytes / (time.perf_counter() - begun))
    print(json.dumps({"bytes_per_s": best}), flush=True)
"""


class MemoryRead:
    """A process with an array of `nbytes`, read by `threads` threads; keeps the best rate that it has seen."""

    def __init__(self, threads: int, nbytes: int) -> None:
        self._process = LineProcess(CODE, {"OPENBLAS_NUM_THREADS": "1"}, str(threads), str(nbytes))
        self.bytes_per_s = 0.0

    def measure(self, times: int = 5) -> float:
        """Bytes a second, the best of `times` passes."""
        found = float(self._process.ask(times=times)["bytes_per_s"])
        self.bytes_per_s = max(self.bytes_per_s, found)
        return found

    def close(self) -> None:
        self._process.close()
