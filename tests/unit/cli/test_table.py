"""Tables and sizes as text."""

from __future__ import annotations

from exo_node.cli.table import size, table


def test_table() -> None:
    """Columns are aligned, and no line ends in spaces."""
    assert table(["A", "LONG"], [["xyz", ""], ["", "b"]]) == "A    LONG\nxyz\n     b"


def test_a_name_stays_in_its_cell() -> None:
    """Names of strangers' nodes, models and keys neither begin a line nor tell the terminal what to do."""
    assert table(["A"], [["x\ny\x1b[2J"]]) == "A\nx\\ny\\x1b[2J"


def test_size() -> None:
    """Bytes in the largest unit that keeps them above one."""
    assert [size(n) for n in (0, 1023, 1024, 1536 * 2**20, 3 * 2**40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 GiB",
        "3.0 TiB",
    ]
