"""api/operations.py: what is said at a handler."""

from __future__ import annotations

from exo_node.api.operations import SSE, operation, operation_of


class Routes:
    @operation("Room", answers=(SSE,), status=201)
    async def handler(self) -> None: ...

    async def silent(self) -> None: ...


def test_said_once_and_found_at_the_bound_method() -> None:
    """A route holds the bound method: what was said of the function is found there; nothing said is None."""
    said = operation_of(Routes().handler)
    assert said is not None
    assert (said.tag, said.answers, said.status, said.body) == ("Room", (SSE,), 201, None)
    assert operation_of(Routes().silent) is None
