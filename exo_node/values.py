"""Reads single values of settings: each reader takes a text (flag, variable) or a TOML value, and raises `ValueError`
with a message that says what would have been right. No framework, no I/O."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)}
_UNITS |= {f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", 1)}


def text(raw: Any) -> str:
    """A text that is not empty."""
    if not isinstance(raw, str) or not raw:
        raise ValueError(f"wants a text that is not empty, got {raw!r}")
    try:
        raw.encode()
    except UnicodeEncodeError as e:  # JSON can say it; no header, file or database takes it
        raise ValueError("holds half of a surrogate pair, which is not a character") from e
    return raw


def name(raw: Any) -> str:
    """A node id: a label of a network name, with room for a suffix (cluster/identity.py has the same rule)."""
    if not isinstance(raw, str) or not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,40}[A-Za-z0-9])?", raw):
        raise ValueError(f"wants 1 to 42 letters, digits and inner dashes, got {raw!r}")
    return raw


def path(raw: Any) -> Path:
    """A path; `~` is expanded here because `--flag=~/x` reaches us as it stands."""
    return Path(os.path.expanduser(text(raw)))


def switch(raw: Any) -> bool:
    """true/false, also as 1/0, yes/no, on/off."""
    if isinstance(raw, bool):
        return raw
    lowered = raw.lower() if isinstance(raw, str) else None
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"wants true or false, got {raw!r}")


def integer(low: int, high: int | None = None) -> Callable[[Any], int]:
    """A whole number in [low, high]."""
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"

    def read(raw: Any) -> int:
        value = raw
        if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", raw.strip()):
            value = int(raw)
        if type(value) is not int or value < low or (high is not None and value > high):
            raise ValueError(f"wants a whole number {bounds}, got {raw!r}")
        return value

    return read


def number(low: float, high: float | None = None, *, open_below: bool = False) -> Callable[[Any], float]:
    """A finite number in [low, high], or above `low` when `open_below`."""
    bounds = f"above {low}" if open_below else f"of at least {low}" if high is None else f"from {low} to {high}"

    def read(raw: Any) -> float:
        try:
            value = float(raw) if isinstance(raw, str) or type(raw) in (int, float) else float("nan")
        except (ValueError, OverflowError):
            value = float("nan")
        inside = low <= value <= (float("1e15") if high is None else high) and not (open_below and value == low)
        if not inside:  # also NaN
            raise ValueError(f"wants a number {bounds}, got {raw!r}")
        return value

    return read


def choice(*allowed: str) -> Callable[[Any], str]:
    """One of the named words."""

    def read(raw: Any) -> str:
        if raw not in allowed:
            raise ValueError(f"wants one of {', '.join(allowed)}, got {raw!r}")
        return str(raw)

    return read


def size(raw: Any) -> int:
    """Bytes: a plain number, or one with KB/MB/GB/TB (powers of 1000) or KiB/MiB/GiB/TiB (powers of 1024)."""
    if type(raw) is int and raw > 0:
        return raw
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", raw) if isinstance(raw, str) else None
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or (count := int(float(match[1]) * unit)) <= 0:
        raise ValueError(f"wants bytes such as 4GiB, 512MB or 1073741824, got {raw!r}")
    return count


def host_port(raw: Any) -> str:
    """HOST:PORT, [IPv6]:PORT."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:\[\]]+):([0-9]{1,5})", raw) if isinstance(raw, str) else None
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ValueError(f"wants HOST:PORT or [IPV6]:PORT, got {raw!r}")
    return str(raw)


def origin(raw: Any) -> str:
    """A web origin, SCHEME://HOST[:PORT], or "*" for all."""
    if isinstance(raw, str) and (raw == "*" or re.fullmatch(r"[a-zA-Z][\w+.-]*://[^\s/?#@]+/?", raw)):
        return raw.rstrip("/")
    raise ValueError(f"wants an origin such as https://chat.example.com, or *, got {raw!r}")


def is_loopback(host: str) -> bool:
    """Whether a listener on `host` can be reached from this machine only."""
    host = host.strip("[]").partition("%")[0].lower()
    if host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost"):
        return True
    return re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None
