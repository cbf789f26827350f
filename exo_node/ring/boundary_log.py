"""What a stage has sent to the next one, to be sent again where only that one is lost (ARCHITECTURE 3.11).

Host memory, capped: of sequences that are too many the one that was written to longest ago is forgotten as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exo_node.cluster.stage_memory import LOG_BYTES
from exo_node.ring.int8_rows import recast
from exo_node.ring.messages import Copy, Drop, Op, Rename
from exo_node.types import DTYPE_BYTES, Dtype


class BoundaryLog:
    """Vectors by sequence, from its first token on without a gap. All in one dtype: `recast` before that changes."""

    def __init__(self, most_bytes: int = LOG_BYTES) -> None:
        self.vector_bytes = 0  # 0: nothing was written yet
        self.n_bytes = 0
        self._most = most_bytes
        self._vectors: dict[int, bytearray] = {}  # what was written to last is at the end

    def recast(self, old: Dtype, new: Dtype) -> None:
        """What was written in one dtype is to be read in another."""
        for sequence, held in self._vectors.items():
            self._vectors[sequence] = bytearray(recast(memoryview(held), old, new))
        self.n_bytes = sum(map(len, self._vectors.values()))
        self.vector_bytes = self.vector_bytes // DTYPE_BYTES[old] * DTYPE_BYTES[new]

    def length(self, sequence: int) -> int:
        """Tokens that can be read, from the first on."""
        held = self._vectors.get(sequence)
        return len(held) // self.vector_bytes if held else 0

    def write(self, sequence: int, position: int, vectors: memoryview, vector_bytes: int) -> None:
        """The sequence goes on from `position` with these. One whose beginning is not here stays out."""
        self.vector_bytes = vector_bytes
        held = self._vectors.pop(sequence, None)
        if position > (len(held) // vector_bytes if held else 0):
            self.n_bytes -= len(held or b"")
            return
        held = bytearray() if held is None else held
        before = len(held)
        del held[position * vector_bytes :]
        held += vectors
        self._vectors[sequence] = held
        self.n_bytes += len(held) - before
        while self.n_bytes > self._most:
            self._drop(next(iter(self._vectors)))

    def read(self, sequence: int, position: int, length: int) -> memoryview | None:
        """Vectors of `length` tokens from `position` on; None where they are not here."""
        if position + length > self.length(sequence):
            return None
        begin, end = position * self.vector_bytes, (position + length) * self.vector_bytes
        return memoryview(bytes(memoryview(self._vectors[sequence])[begin:end]))

    def follow(self, ops: Sequence[Op]) -> None:
        """Sequences are dropped, copied and renamed as the stage's own."""
        for op in ops:
            match op:
                case Drop(sequence):
                    self._drop(sequence)
                case Copy(target, source, length) | Rename(target, source, length):
                    held = self._vectors.get(source)
                    end = length * self.vector_bytes
                    if held is not None and len(held) >= end:
                        self.write(target, 0, memoryview(held[:end]), self.vector_bytes)
                    if isinstance(op, Rename):
                        self._drop(source)

    def keep(self, lengths: Mapping[int, int]) -> None:
        """Cut these sequences to so many tokens, and forget all others."""
        for sequence in [*self._vectors]:
            if (length := lengths.get(sequence, 0)) == 0:
                self._drop(sequence)
                continue
            held = self._vectors[sequence]
            self.n_bytes -= len(held)
            del held[length * self.vector_bytes :]
            self.n_bytes += len(held)

    def _drop(self, sequence: int) -> None:
        self.n_bytes -= len(self._vectors.pop(sequence, b""))
