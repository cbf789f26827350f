"""`exo` and `python -m exo_node`. Imports late, so that a client verb starts in milliseconds."""

from __future__ import annotations

import sys


def main() -> int:
    """The `exo` command; returns its exit status: 0, 1 (failed), 2 (wrong arguments or settings), 130 (Ctrl-C)."""
    from exo_node.cli.main import dispatch

    return dispatch(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
