"""Network namespaces as machines, on one switch whose ports can be cut: a cut link swallows everything, in silence."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator

from tests.chaos.cells import NODES

_CLONE_NEWNET = 0x40000000
_DISABLED, _FORWARDING = "0", "3"  # states of a bridge's port


class Hosts:
    """One namespace for each node, joined by a bridge in a namespace of its own; `close` removes them all."""

    def __init__(self) -> None:
        mark = f"{os.getpid() % 100_000}{threading.get_ident() % 97:02}"  # interface names have 15 characters at most
        self._switch = f"exo-chaos-{mark}"
        self._mark = mark

    def open(self) -> Hosts:
        """Raises `OSError` saying why they may not be made here."""
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0", "stp_state", "0")
            _ip("-n", self._switch, "link", "set", "br0", "up")
            for number, node in enumerate(NODES, start=1):
                self._plug(node, number)
        except BaseException:
            self.close()
            raise
        return self

    def _plug(self, node: str, number: int) -> None:
        name, link, port = self.namespace(node), f"xn{node}{self._mark}", self._port(node)
        _ip("netns", "add", name)
        _ip("link", "add", link, "type", "veth", "peer", "name", port)
        _ip("link", "set", link, "netns", name)
        _ip("link", "set", port, "netns", self._switch)
        _ip("-n", self._switch, "link", "set", port, "master", "br0")
        _ip("-n", self._switch, "link", "set", port, "up")
        # IPv4 only: duplicate address detection would keep the other family unusable for a second or two.
        settings = [f"net.ipv6.conf.{link}.disable_ipv6=1"]
        subprocess.run(["ip", "netns", "exec", name, "sysctl", "-qw", *settings], check=False, capture_output=True)
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "addr", "add", f"10.78.0.{number}/24", "dev", link)
        _ip("-n", name, "link", "set", link, "up")

    def namespace(self, node: str) -> str:
        return f"exo-chaos-{node}-{self._mark}"

    def _port(self, node: str) -> str:
        return f"xp{node}{self._mark}"

    def cut(self, node: str) -> None:
        """From now on nothing reaches this node and nothing comes from it."""
        self._state(node, _DISABLED)

    def mend(self, node: str) -> None:
        self._state(node, _FORWARDING)

    def _state(self, node: str, state: str) -> None:
        _run("bridge", "-n", self._switch, "link", "set", "dev", self._port(node), "state", state)

    def close(self) -> None:
        for name in (*map(self.namespace, NODES), self._switch):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    @contextlib.contextmanager
    def inside(self, node: str) -> Iterator[None]:
        """Sockets that this thread makes meanwhile are that node's."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.namespace(node)}") as there:
            _enter(libc, there.fileno())
            try:
                yield
            finally:
                _enter(libc, home.fileno())


def _enter(libc: ctypes.CDLL, descriptor: int) -> None:
    if libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot enter a network namespace: {os.strerror(number)}")


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def hosts_or_reason() -> Hosts | str:
    """Namespaces, or why there are none; close them in the end."""
    try:
        return Hosts().open()
    except OSError as error:
        return f"no network namespaces here: {error}"
