"""How much goes into a step and how much may be in flight: the figures and formulas that `head.py` decides by."""

from __future__ import annotations

from dataclasses import dataclass

# A gRPC hop buffers 4-5 MB before `write` blocks; every inbound queue of ours is unbounded, so this bounds memory only.
# 64 MiB holds four 512-token chunks of an 8192-wide model in float32.
MAX_BYTES_IN_FLIGHT = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Budget:
    """The ring's only flow control (ARCHITECTURE 3.4). One step is always allowed, whatever its bytes."""

    max_steps: int
    max_bytes: int

    @classmethod
    def of(cls, n_stages: int) -> Budget:
        """A ring of one runs a step to its end before the next. A longer one keeps a step on every stage, and one more
        waiting at the head so that the first hop is never idle."""
        return cls(1 if n_stages == 1 else n_stages + 1, MAX_BYTES_IN_FLIGHT)


def chunk_length(sent: int, prefill: int, max_chunk: int) -> int:
    """Tokens of the next prefill chunk. Borders lie at absolute multiples of `max_chunk`, so that a prompt is cut the
    same way whatever else the ring is doing (ARCHITECTURE 3.14).

    >>> chunk_length(0, 1000, 512), chunk_length(512, 1000, 512), chunk_length(700, 1100, 512)
    (512, 488, 324)
    """
    return min(prefill, (sent // max_chunk + 1) * max_chunk) - sent


def decode_share(n_decoding: int, n_stages: int) -> int:
    """Decoding sequences per micro-batch: an even share for each stage, so that all stages have work at once.

    >>> decode_share(8, 1), decode_share(8, 3), decode_share(1, 3), decode_share(0, 3)
    (8, 3, 1, 1)
    """
    return max(1, -(-n_decoding // n_stages))
