"""Peers' deployments, while peers come, change and go."""

from __future__ import annotations

from exo_node.routing.front.peer_deployments import PeerDeployments
from exo_node.types import SharedDeployment


def shared(name: str) -> SharedDeployment:
    return SharedDeployment(
        id=name, model_name=name, litellm_model=f"openai/{name}", provider="openai", upstream_model=name
    )


def test_what_peers_tell_is_read_once() -> None:
    """The same objects while nothing changes; a peer that tells others, comes or goes leaves the rest as it is."""
    peers = {"b": (shared("x"), shared("y")), "c": (shared("z"),)}
    ask = PeerDeployments(lambda: dict(peers))
    first = ask()
    assert [(one.id, one.node_id) for one in first] == [("x", "b"), ("y", "b"), ("z", "c")]
    assert ask() is first
    peers["c"] = (shared("w"),)
    second = ask()
    assert second[:2] == first[:2] and second[0] is first[0]
    assert second[2].id == "w"
    del peers["b"]
    assert [one.id for one in ask()] == ["w"]
    peers.clear()
    assert ask() == ()
