"""How a record is written into the log, so that nobody's words look like another record.

Names and errors in it come from clients, peers and providers. Ends of lines in them are kept and what follows is
indented, as a traceback's lines are; other control characters, by which a terminal is told what to do, are shown.
"""

from __future__ import annotations

import logging
import sys
from types import TracebackType

_SHOWN: dict[int, str] = {one: repr(chr(one))[1:-1] for one in (*range(32), *range(127, 160), 0x2028, 0x2029)}
_LINES = _SHOWN | {ord("\n"): "\n    ", ord("\t"): "\t"}


def shown(text: str) -> str:
    """For a table on a terminal.

    >>> shown("a\nb" + chr(27) + "[2J")
    'a\\nb\\x1b[2J'
    """
    return text.translate(_SHOWN)


class LogLines(logging.Formatter):
    """Of the daemon's log."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).translate(_LINES)

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return super().formatException(ei).translate(_LINES)


def configure_logging(verbose: int, debug: int) -> None:
    """Warnings always; `-v` or DEBUG=1 what happens to instances and peers; DEBUG=2 and more everything."""
    level = logging.WARNING
    if verbose or debug:
        level = logging.DEBUG if verbose > 1 or debug > 1 else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogLines("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    if level > logging.DEBUG:  # it warns, with a traceback, of every packet that a changing network does not take
        logging.getLogger("zeroconf").setLevel(logging.ERROR)
    else:
        logging.getLogger("grpc").setLevel(logging.INFO)  # its own steps of every call drown ours
