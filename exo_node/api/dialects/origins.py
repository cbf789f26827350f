"""What is wrong with the chat that a dialect's request became, said of the request's own field."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from exo_node.errors import ExoError

# A chat's fields -> where they came from; the first that fits counts.
Origins = Sequence[tuple[re.Pattern[str], str]]


@contextmanager
def naming(origins: Origins) -> Iterator[None]:
    """Errors that leave it name the request's field."""
    try:
        yield
    except ExoError as error:
        name_origin(error, origins)
        raise


def name_origin(error: ExoError, origins: Origins) -> None:
    """Change the field's name in the error."""
    if error.param is None:
        return
    for pattern, origin in origins:
        named = pattern.sub(origin, error.param)
        if named != error.param:
            error.message = error.message.replace(error.param, named, 1)
            error.param = named
            return
