"""The names of the strategies: every name of the documents and of LiteLLM's Router, one meaning each."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

LATENCY, COST, LEAST_BUSY, SHUFFLE, PRIORITY = "latency", "cost", "least-busy", "simple-shuffle", "priority"
LOCAL_FIRST, CLOUD_FIRST, HEURISTIC, HYBRID, CASCADE = "local-first", "cloud-first", "heuristic", "hybrid", "cascade"
USAGE, BUDGET = "usage-based-routing", "provider-budget-routing"

# What each does, for `--help`, the API and the documentation.
MEANING: Mapping[str, str] = {
    LATENCY: "the shortest predicted time: to the first token for this prompt and load, then the answer",
    COST: "the lowest predicted cost, ties by latency",
    LEAST_BUSY: "the fewest requests in flight",
    SHUFFLE: "at random, by weight",
    PRIORITY: "the lowest `order` (priority), ties by latency",
    LOCAL_FIRST: "this cluster's ring, then external backends by latency",
    CLOUD_FIRST: "external backends by latency, then the ring",
    HEURISTIC: "by what the request looks like: task type, length, code, needs",
    HYBRID: "the heuristic filters, the predicted time picks",
    CASCADE: "the cheapest first, a dearer one when its answer fails a check",
    USAGE: "the fewest tokens in the running minute",
    BUDGET: "at random among providers whose budget has room",
}

ALIASES: Mapping[str, str] = {
    "latency-based": LATENCY,
    "latency-based-routing": LATENCY,
    "least-cost": COST,
    "cost-based": COST,
    "cost-based-routing": COST,
    "cost-optimized": COST,
    "shuffle": SHUFFLE,
    "weighted": SHUFFLE,
    "order": PRIORITY,
    "priority/order": PRIORITY,
    "usage-based-routing-v2": USAGE,  # LiteLLM's two differ only in where they count
    "usage-based": USAGE,
}

REFUSED: Mapping[str, str] = {
    "lar1": "LiteLLM's lar1 asks an outside service which model to take; exo-node decides on its own node "
    "(the nearest is hybrid)",
}


def resolve(name: str) -> str:
    """The one name of a strategy. Case, blanks and `_` for `-` do not matter.

    Raises `ValueError` with what would have been right (the reader of a file or a request adds where it stood).
    """
    plain = name.strip().lower().replace("_", "-")
    if plain in REFUSED:
        raise ValueError(f"strategy {name!r} is not done: {REFUSED[plain]}")
    found = plain if plain in MEANING else ALIASES.get(plain)
    if found is not None:
        return found
    near = difflib.get_close_matches(plain, [*MEANING, *ALIASES], n=1, cutoff=0.7)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(MEANING)}"
    raise ValueError(f"unknown strategy {name!r}; {hint}")
