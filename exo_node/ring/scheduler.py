"""How much goes into a step and how many steps fly: the figures and formulas that `head.py` decides by. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from exo_node.ring.step_times import RingTimes

# A gRPC hop buffers 4-5 MB before `write` blocks; every inbound queue of ours is unbounded, so this bounds memory only.
# 64 MiB holds four 512-token chunks of an 8192-wide model in float32.
MAX_BYTES_IN_FLIGHT = 64 * 2**20
GAP = 1.8  # a slice of a prompt may make a step with decode rows so much longer than it would be without
FIRST_SLICE = 32  # tokens, while nothing is known of this ring's times
LEAST_SLICE = 2  # tokens: a prompt always comes on, whatever its company
NEAR_BEST = 0.98  # of two numbers of micro-batches that are as good as this to each other, the smaller


@dataclass(frozen=True, slots=True)
class Budget:
    """The ring's only flow control (ARCHITECTURE 3.4). One step is always allowed, whatever its bytes."""

    max_steps: int
    max_bytes: int

    @classmethod
    def of(cls, n_stages: int, micro_batches: int = 1) -> Budget:
        """A ring of one runs a step to its end before the next. A longer one keeps a step on every stage (and on every
        hop that is long enough to hold one), and one more waiting at the head so that the first hop is never idle."""
        return cls(1 if n_stages == 1 else max(n_stages, micro_batches) + 1, MAX_BYTES_IN_FLIGHT)


def chunk_length(sent: int, prefill: int, max_chunk: int) -> int:
    """Tokens of the next chunk of a prompt that is to be cut the same way whatever else the ring is doing: borders lie
    at absolute multiples of `max_chunk` (ARCHITECTURE 3.14).

    >>> chunk_length(0, 1000, 512), chunk_length(512, 1000, 512), chunk_length(700, 1100, 512)
    (512, 488, 324)
    """
    return min(prefill, (sent // max_chunk + 1) * max_chunk) - sent


def decode_share(n_decoding: int, micro_batches: int) -> int:
    """Decoding sequences per micro-batch: an even share for each.

    >>> decode_share(8, 1), decode_share(8, 3), decode_share(1, 3), decode_share(0, 3)
    (8, 3, 1, 1)
    """
    return max(1, -(-n_decoding // micro_batches))


def micro_batches(n_decoding: int, times: RingTimes) -> int:
    """How many micro-batches the decoding sequences are best cut into: the fewest that reach the largest
    X(m) = min(m b / T, b / s), b = n/m, T one trip round the ring, s the slowest stage, both for b rows.

    Times are the ring's own. Until they are known, one for each stage.
    """
    n_stages = times.n_stages
    if n_stages == 1 or n_decoding <= 1:
        return 1
    if not times.known:
        return min(n_decoding, n_stages)
    rates: list[float] = []
    for m in range(1, min(n_decoding, 4 * n_stages) + 1):
        rows = -(-n_decoding // m)
        # the last micro-batch may be short: n rows leave in m steps
        rates.append(n_decoding / max(times.trip(rows), m * times.slowest(rows)))
    best = max(rates)
    return next(m for m, rate in enumerate(rates, 1) if rate >= NEAR_BEST * best)


def slice_budget(decode_rows: int, max_chunk: int, times: RingTimes) -> int:
    """Tokens of prompts that may join a step with `decode_rows` rows: as many as `GAP` allows, at least a few."""
    if not decode_rows:
        return max_chunk
    if not times.known:
        return min(FIRST_SLICE, max_chunk)
    usual = times.slowest(decode_rows)
    low, high = LEAST_SLICE, max_chunk
    while low < high:
        middle = (low + high + 1) // 2
        if times.slowest(decode_rows + middle) <= GAP * usual:
            low = middle
        else:
            high = middle - 1
    return min(low, max_chunk)


def draft_depth(acceptance: float, rows: int, deepest: int, times: RingTimes, token_s: float = 0.0) -> int:
    """How many drafted tokens a row is worth: the depth k that gives most tokens a second, 0 = none.

    A draft's token is right with probability `acceptance`, independently: a row of k+1 gives
    E = (1 - a^(k+1)) / (1 - a) tokens in T(k+1) + k t_d (PEERS 4). `rows` such rows share a step; `token_s` is t_d, the
    seconds that the head takes to draft one token.

    >>> from exo_node.ring.step_times import RingTimes
    >>> draft_depth(0.9, 1, 8, RingTimes(1)), draft_depth(0.05, 1, 8, RingTimes(1))
    (3, 0)
    """
    if not times.known:
        return min(3, deepest) if acceptance >= 0.3 else 0
    best, best_rate = 0, 0.0
    expected, right = 0.0, 1.0  # `expected_tokens`, term by term: this is asked for each row of each step
    for depth in range(deepest + 1):
        expected += right
        right *= acceptance
        rate = expected / (times.trip(rows * (depth + 1)) + rows * depth * token_s)
        if rate > best_rate * (1.0 if depth == 0 else 1.02):  # a deeper draft must pay
            best, best_rate = depth, rate
    return best


def expected_tokens(acceptance: float, depth: int) -> float:
    """Tokens that a row with `depth` drafts gives.

    >>> expected_tokens(0.5, 0), expected_tokens(0.5, 1), expected_tokens(1.0, 3)
    (1.0, 1.5, 4.0)
    """
    if acceptance >= 1.0:
        return depth + 1.0
    return float((1 - acceptance ** (depth + 1)) / (1 - acceptance))
