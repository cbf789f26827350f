"""What a layer with a window keeps."""

from __future__ import annotations

import pytest

from exo_node.engine.windows import SLACK, base_after, kept_tokens, reaches


@pytest.mark.parametrize(("window", "chunk"), ((1, 1), (12, 8), (1024, 256)))
def test_what_is_kept_is_enough_for_every_promise(window: int, chunk: int) -> None:
    """Forgotten as late as may be before a pass of a whole chunk: there is room for that, and afterwards a rollback by
    the slack still finds its window; one further does not."""
    most = kept_tokens(window, 10**6, chunk)
    position = most - chunk + 1
    base = base_after(window, position)
    assert base > 0 and position + chunk - base <= most
    assert reaches(base, window, position - SLACK)
    assert not reaches(base, window, position - SLACK - 1)
    assert reaches(0, window, 0)
