"""Single values of settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exo_node import values


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("4GiB", 4 * 2**30),
        ("512MB", 512_000_000),
        ("1.5 gib", 3 * 2**29),
        ("1024", 1024),
        (1024, 1024),
        ("7B", 7),
    ],
)
def test_size(raw: Any, expected: int) -> None:
    """Sizes take powers of 1000 and of 1024, in any case, or plain bytes."""
    assert values.size(raw) == expected


@pytest.mark.parametrize("raw", ["", "4 GiBs", "-1", "0", "x", True, 1.5, None, "1e9"])
def test_bad_size(raw: Any) -> None:
    """What is no size says what would be one."""
    with pytest.raises(ValueError, match="4GiB"):
        values.size(raw)


@pytest.mark.parametrize("raw", ["host:1", "10.0.0.1:65535", "[::1]:52415", "[fe80::1%eth0]:5", "box.local:80"])
def test_host_port(raw: str) -> None:
    """Names, IPv4 and bracketed IPv6, with a zone too."""
    assert values.host_port(raw) == raw


@pytest.mark.parametrize("raw", ["host", "host:", ":5", "host:0", "host:65536", "::1:5", "a b:5", 5, "host:5:6"])
def test_bad_host_port(raw: Any) -> None:
    """A peer without a usable port, or an IPv6 address without brackets, is refused."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        values.host_port(raw)


@pytest.mark.parametrize("raw", ["", None, 5, "half \ud800"])
def test_what_is_no_text(raw: Any) -> None:
    """Nothing, other types, and what no file, header or database could take."""
    with pytest.raises(ValueError, match=r"wants a text|surrogate"):
        values.text(raw)


def test_path_expands_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """~ is expanded here, because a shell leaves --flag=~/x alone."""
    monkeypatch.setenv("HOME", "/home/me")
    assert values.path("~/models") == Path("/home/me/models")


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (values.integer(0, 9), ["0", "9", 5], ["-1", "10", "1.0", True, 1.0, "", "9" * 30, None]),
        (values.number(0, 2), ["0", "1e0", 2, 0.5], ["-0.1", "nan", "inf", True, "x", 10**400, None]),
        (values.number(0, open_below=True), ["0.1", 900], ["0", 0, "inf"]),
        (values.switch, [True, "1", "yes", "ON", "off"], ["maybe", 1, None]),
        (values.choice("a", "b"), ["a"], ["c", None, ["a"]]),
        (values.text, ["x"], ["", None, 5]),
        (values.name, ["node-1", "A"], ["", "-a", "a b", "a/../b", "x" * 43, "a."]),
    ],
)
def test_readers(read: Callable[[Any], Any], good: list[Any], bad: list[Any]) -> None:
    """Each reader takes texts and TOML values alike, and nothing out of bounds or of another type."""
    for raw in good:
        read(raw)
    for raw in bad:
        with pytest.raises(ValueError, match="wants"):
            read(raw)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    """Only what cannot be reached from outside counts as loopback."""
    assert values.is_loopback(host) is expected
