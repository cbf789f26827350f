"""What others say in the log is told from the log's own records."""

from __future__ import annotations

import logging
import sys

import pytest

from exo_node.log_lines import LogLines, configure_logging, shown

FORGED = "no such model\n2026-11-22 02:41:53,085 I exo.audit: POST /quit by admin\x1b[2J\r\u2028\x9b"


def test_nobody_writes_a_record_of_his_own() -> None:
    """An end of a line in a name or in an error's words begins no record, and a terminal is told nothing."""
    try:
        raise ValueError(FORGED)
    except ValueError:
        record = logging.LogRecord("exo", logging.ERROR, "", 1, "failed: %s", (FORGED,), sys.exc_info())
    lines = LogLines("%(levelname).1s %(message)s").format(record).split("\n")
    assert lines[0] == "E failed: no such model"
    assert lines[1] == "    2026-11-22 02:41:53,085 I exo.audit: POST /quit by admin\\x1b[2J\\r\\u2028\\x9b"
    assert lines[2] == "Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in lines[3:])
    assert not any(set(line) & set("\x1b\r\u2028\x9b") for line in lines)


def test_a_cell_of_a_table() -> None:
    """It stays in its row."""
    assert shown("a\tb\nc\x1b[1m é") == "a\\tb\\nc\\x1b[1m é"


@pytest.mark.parametrize(
    ("verbose", "debug", "level"),
    [(0, 0, logging.WARNING), (1, 0, logging.INFO), (0, 1, logging.INFO), (2, 0, logging.DEBUG), (0, 2, logging.DEBUG)],
)
def test_the_daemon_logs_so(monkeypatch: pytest.MonkeyPatch, verbose: int, debug: int, level: int) -> None:
    """As much as was asked for, in lines that nobody forges."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    for one in (root, logging.getLogger("zeroconf"), logging.getLogger("grpc")):
        monkeypatch.setattr(one, "level", one.level)
    configure_logging(verbose, debug)
    assert root.level == level
    assert [type(one.formatter) for one in root.handlers] == [LogLines]
