"""Settings to discoveries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exo_node.cluster.discovery import Announcement
from exo_node.cluster.sources import discoveries
from exo_node.errors import ConfigurationError


def never() -> Announcement:
    raise AssertionError("read before the start")


@pytest.mark.parametrize(
    ("module", "options", "expected"),
    [
        ("mdns", {}, ["MdnsDiscovery"]),
        ("mdns", {"peers": ["h:1"]}, ["StaticPeers", "MdnsDiscovery"]),
        ("manual", {"config_path": Path("f")}, ["ManualDiscovery"]),
        ("none", {"peers": ["h:1"]}, ["StaticPeers"]),
        ("none", {}, []),
    ],
)
def test_modules(module: Any, options: dict[str, Any], expected: list[str]) -> None:
    """Each module gives its discovery, peers theirs; nothing is opened or read before the start."""
    assert [type(one).__name__ for one in discoveries(module, node_id="ann", announce=never, **options)] == expected


def test_manual_without_a_file() -> None:
    """`manual` says which flag it misses."""
    with pytest.raises(ConfigurationError, match="--discovery-config-path"):
        discoveries("manual", node_id="ann", announce=never)
