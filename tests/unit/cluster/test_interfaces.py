"""Which addresses are told, and where mDNS is spoken."""

from __future__ import annotations

from exo_node.cluster.interfaces import Address, addresses, announced, host_token, multicast_addresses

LO = [Address("lo", 1, "127.0.0.1"), Address("lo", 1, "::1")]
ETH = [Address("eth0", 2, "10.0.0.2"), Address("eth0", 2, "fd00::2"), Address("eth0", 2, "fe80::2")]


def test_announced() -> None:
    """IPv4 before IPv6 before link-local with its scope; loopback only when alone; a bound address only itself."""
    assert announced(LO + ETH) == ("10.0.0.2", "fd00::2", "fe80::2%eth0")
    assert announced(LO) == ("127.0.0.1", "::1")
    assert announced(LO + ETH, "10.0.0.2") == ("10.0.0.2",)
    assert announced([]) == ()


def test_multicast() -> None:
    """Every IPv4 address with loopback, one IPv6 address an interface (link-local if there is one), never `::1`."""
    assert multicast_addresses(LO + ETH) == ["127.0.0.1", "10.0.0.2", "fe80::2"]


def test_this_machine() -> None:
    """The kernel's own answer holds a loopback address, and the token is stable and depends on the secret."""
    assert any(address.parsed.is_loopback for address in addresses())
    assert host_token("a") == host_token("a") != host_token("b")
