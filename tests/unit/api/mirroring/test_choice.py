"""Who mirrors what, and who is right."""

from __future__ import annotations

from collections import Counter

from exo_node.api.mirroring.choice import Has, best, mirrors


def test_mirrors_are_spread_and_stay() -> None:
    """Every node comes to the same order; a node that leaves moves its own answers only; the load is even."""
    nodes = ["a", "b", "c", "d"]
    first = {f"resp_{i}": mirrors(f"resp_{i}", nodes) for i in range(400)}
    assert first == {ident: mirrors(ident, reversed(nodes)) for ident in first}
    without = {ident: mirrors(ident, ["a", "b", "c"])[0] for ident in first}
    assert all(without[ident] == order[0] for ident, order in first.items() if order[0] != "d")
    assert min(Counter(order[0] for order in first.values()).values()) > 70
    assert mirrors("r", []) == []


def test_the_best_of_several() -> None:
    """The highest term is right; of one term who makes it, has all of it, has a copy, remembers that it was begun."""
    assert best({}) == best({"a": Has()}) == ""
    same = {"a": Has("stale", 1), "b": Has("copy", 1), "c": Has("ended", 1), "d": Has("made", 1)}
    assert best(same) == "d"
    assert best({**same, "e": Has("copy", 2)}) == "e"
    assert best({"a": Has("stale", 1), "b": Has("copy", 1)}) == "b"
