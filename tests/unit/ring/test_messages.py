"""The plain data of the ring."""

from __future__ import annotations

from exo_node.ring.messages import NO_EPOCH, Epoch, Failure, Step


def test_epochs_are_ordered_by_counter_then_coordinator() -> None:
    """The larger (counter, coordinator) wins; the beginning is smaller than any."""
    assert NO_EPOCH < Epoch(1, "") < Epoch(1, "b") < Epoch(2, "a")


def test_a_failed_step_keeps_its_number() -> None:
    """A failure travels in place of the payload."""
    failed = Step(Epoch(1, "a"), 7).failed(Failure(1, "engine_failed", "no memory"))
    assert (failed.number, failed.hidden, failed.failure) == (7, None, Failure(1, "engine_failed", "no memory"))
