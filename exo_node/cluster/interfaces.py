"""This machine's addresses and what they are good for. Reads the kernel; keeps nothing."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import ifaddr

WILDCARDS = ("", "::", "0.0.0.0")


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One address of one interface. `literal` has the interface as scope when it is link-local (`fe80::1%eth0`)."""

    interface: str
    index: int
    ip: str

    @property
    def parsed(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self.ip)

    @property
    def literal(self) -> str:
        scoped = self.parsed.version == 6 and self.parsed.is_link_local
        return f"{self.ip}%{self.interface}" if scoped else self.ip


def addresses() -> tuple[Address, ...]:
    """All addresses that can be used now, sorted. An IPv6 address that is still being checked for duplicates is not yet
    listed: it cannot be bound, and would be missing for good in whatever is set up on it."""
    found = set()
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0].partition("%")[0]
            address = Address(adapter.name, adapter.index or 0, text)
            if address.parsed.version == 4 or _can_bind(address):
                found.add(address)
    return tuple(sorted(found))


def _can_bind(address: Address) -> bool:
    scope = address.index if address.parsed.is_link_local else 0
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((address.ip, 0, 0, scope))
    except OSError:
        return False
    return True


def announced(found: Iterable[Address], listen: str = "") -> tuple[str, ...]:
    """The literals at which others may reach a server that listens on `listen`, best first: IPv4, IPv6, link-local.

    Loopback only when there is nothing else: to another machine it would mean itself.
    """
    if listen not in WILDCARDS:
        return (listen,)
    usable = [address for address in found if not address.parsed.is_multicast]
    outside = [address for address in usable if not address.parsed.is_loopback]
    chosen = outside or usable
    chosen.sort(key=lambda a: (a.parsed.is_link_local, a.parsed.version, a))
    return tuple(dict.fromkeys(address.literal for address in chosen))


def multicast_addresses(found: Iterable[Address]) -> list[str]:
    """Where mDNS is to be spoken, as zeroconf wants it: every IPv4 address, and one IPv6 address an interface.

    Loopback is among them, so that nodes of one host see each other without any network; over IPv4 only, since Linux
    has no IPv6 multicast there.
    """
    chosen: dict[str, None] = {}
    by_interface: dict[str, str] = {}
    for address in found:
        if address.parsed.version == 4:
            chosen[address.ip] = None
        elif not address.parsed.is_loopback and (address.interface not in by_interface or address.parsed.is_link_local):
            by_interface[address.interface] = address.ip
    return [*chosen, *dict.fromkeys(by_interface.values())]


def host_token(secret: str) -> str:
    """A name for this host and network namespace that only says "the same as yours or not"."""
    parts = [secret, str(uuid.getnode())]
    try:
        parts = [secret, Path("/proc/sys/kernel/random/boot_id").read_text(), str(os.stat("/proc/self/ns/net").st_ino)]
    except OSError:  # not Linux
        parts.append(socket.gethostname())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
