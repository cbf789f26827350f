"""Two hosts: network namespaces joined by a veth pair. They find each other by mDNS alone and share a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import SHARED_MODELS, NodeProcess, expected_text, wait_until

PHRASE = "correct horse battery staple quantum zebra lantern orbit"
CALL = """
import json, sys, urllib.request
url, body, method = sys.argv[1], sys.argv[2].encode() or None, sys.argv[3] or None
request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"}, method=method)
try:
    print(urllib.request.urlopen(request, timeout=60).read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def output(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def may_make_namespaces() -> str:
    """Empty, or why not."""
    name = f"exo-probe-{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("netns", "del", name)
    except FileNotFoundError:
        return "the command `ip` (iproute2) is not installed"
    except subprocess.CalledProcessError as error:
        return f"network namespaces may not be made here: {error.stderr.decode().strip()}"
    return ""


class Host:
    """A network namespace that plays a machine."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, home: Path, *arguments: str) -> NodeProcess:
        return NodeProcess(home, *arguments, prefix=["ip", "netns", "exec", self.name])

    def call(self, url: str, body: Any = None, method: str = "") -> Any:
        """An HTTP call from inside the namespace."""
        text = "" if body is None else json.dumps(body)
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, sys.executable, "-c", CALL, url, text, method],
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(params=["ipv4", "ipv6-link-local"])
def hosts(request: pytest.FixtureRequest) -> Iterator[tuple[Host, Host]]:
    """Two namespaces with one cable between them: with IPv4 addresses, or with nothing but link-local IPv6."""
    reason = may_make_namespaces()
    if reason:
        pytest.skip(reason)
    names = [f"exo-{side}-{os.getpid()}" for side in "ab"]
    links = [f"exo{side}{os.getpid() % 100000}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for number, (name, link) in enumerate(zip(names, links, strict=True), start=1):
            ip("link", "set", link, "netns", name)
            # Duplicate address detection would keep a link-local address unusable for a second or two.
            settings = [f"net.ipv6.conf.{link}.accept_dad=0"]
            subprocess.run(["ip", "netns", "exec", name, "sysctl", "-qw", *settings], check=False, capture_output=True)
            ip("-n", name, "link", "set", "lo", "up")
            if request.param == "ipv4":
                ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
        yield Host(names[0]), Host(names[1])
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.skipif(
    not (SHARED_MODELS / "stories260K").is_dir(), reason="the folder ../shared/models/stories260K is not here"
)
def test_two_hosts_find_each_other_and_share_a_model(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """Only the phrase is common. Each host holds a part of the model; both give the published text."""
    started: list[NodeProcess] = []
    try:
        for side, host in zip("ab", hosts, strict=True):
            arguments = ["--cluster-key", PHRASE, "--models-dir", str(SHARED_MODELS), "-v"]
            started.append(host.start(tmp_path / side, *arguments))
        for node in started:
            node.wait_ready()
        for host, node in zip(hosts, started, strict=True):
            url = f"{node.api}/v1/topology"
            wait_until(lambda host=host, url=url: len(host.call(url)["nodes"]) == 2, 20, lambda n=node: n.log())
        instance = hosts[0].call(f"{started[0].api}/v1/instances", {"model": "stories260K", "min_nodes": 2})
        assert "shards" in instance, instance
        assert {shard["node_id"] for shard in instance["shards"]} == {node.node_id for node in started}
        body = {"model": "stories260K", "prompt": "", "temperature": 0, "max_tokens": 256}
        for host, node in zip(hosts, started, strict=True):
            answer = host.call(f"{node.api}/v1/completions", body)
            assert "choices" in answer, answer
            assert answer["choices"][0]["text"] == expected_text()
    except BaseException:
        for node in started:
            print(f"--- {node.node_id}\n{node.log()[-5000:]}")
        raise
    finally:
        for node in started:
            node.stop()


@pytest.mark.parametrize("hosts", ["ipv4"], indirect=True)
def test_an_address_changes_while_nodes_run(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """A host that gets its first address, or another one, is found under it and can be used, without a restart."""
    name = hosts[1].name
    (link,) = [one["ifname"] for one in json.loads(output("-n", name, "-j", "addr")) if "10.77.0.2" in str(one)]
    subprocess.run(["ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv6.conf.{link}.disable_ipv6=1"], check=False)
    ip("-n", name, "addr", "del", "10.77.0.2/24", "dev", link)
    started: list[NodeProcess] = []
    try:
        for side, host in zip("ab", hosts, strict=True):
            started.append(host.start(tmp_path / side, "--cluster-key", PHRASE, "-v"))
        for node in started:
            node.wait_ready()
        urls = [f"{node.api}/v1/topology" for node in started]
        assert [len(host.call(url)["nodes"]) for host, url in zip(hosts, urls, strict=True)] == [1, 1]
        for old, new in (("", "10.77.0.2"), ("10.77.0.2", "10.77.0.9")):
            if old:
                ip("-n", name, "addr", "del", f"{old}/24", "dev", link)
            ip("-n", name, "addr", "add", f"{new}/24", "dev", link)

            def found(new: str = new) -> bool:
                seen = hosts[0].call(urls[0])["nodes"]
                return len(seen) == 2 and new in seen[started[1].node_id]["addresses"]

            wait_until(found, 20, lambda: started[0].log())
            instance = hosts[0].call(f"{started[0].api}/v1/instances", {"model": "demo", "min_nodes": 2})
            assert "shards" in instance, instance
        assert "Traceback" not in started[0].log() + started[1].log()
    finally:
        for node in started:
            node.stop()


@pytest.mark.soak
@pytest.mark.parametrize("hosts", ["ipv4"], indirect=True)
def test_short_cuts_of_the_cable_place_nothing_anew(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """The cable is out for 300 ms time and again, in the middle of answers: the same text, the same instance."""
    started: list[NodeProcess] = []
    over = threading.Event()
    text = {"model": "demo", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 300, "ignore_eos": True}
    try:
        for side, host in zip("ab", hosts, strict=True):
            started.append(host.start(tmp_path / side, "--cluster-key", PHRASE, "-v"))
        for node in started:
            node.wait_ready()
        here, there = started
        topology = f"{here.api}/v1/topology"
        wait_until(lambda: len(hosts[0].call(topology)["nodes"]) == 2, 20, lambda: here.log())
        instance = hosts[0].call(f"{here.api}/v1/instances", {"model": "demo", "min_nodes": 2})
        assert "shards" in instance, instance
        undisturbed = hosts[0].call(f"{here.api}/v1/completions", text)["choices"][0]["text"]
        answers: list[Any] = []

        def ask() -> None:
            while not over.is_set():
                answers.append(hosts[0].call(f"{here.api}/v1/completions", text))

        asking = threading.Thread(target=ask)
        asking.start()
        name = hosts[1].name
        (link,) = [one["ifname"] for one in json.loads(output("-n", name, "-j", "addr")) if "10.77.0.2" in str(one)]
        try:
            for _ in range(20):
                begun = time.monotonic()
                ip("-n", name, "link", "set", link, "down")
                time.sleep(0.3)
                ip("-n", name, "link", "set", link, "up")
                if (took := time.monotonic() - begun) > 0.6:
                    pytest.skip(f"this machine is too busy: a break of 0.3 s took {took:.1f} s")
                time.sleep(0.7)
        finally:
            over.set()
            asking.join()
        assert [answer["choices"][0]["text"] for answer in answers] == [undisturbed] * len(answers)
        (after,) = hosts[0].call(f"{here.api}/v1/instances")["data"]
        assert (after["id"], after["epoch"]) == (instance["id"], instance["epoch"])
        assert "is gone" not in here.log() + there.log()
    finally:
        over.set()
        for node in started:
            node.stop()
