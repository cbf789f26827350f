"""What a key for some models only is shown of the node: nothing that names others. Any other key sees everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from exo_node.api.guard import principal
from exo_node.api.ports import ClusterPort, Principal


def sees(cluster: ClusterPort) -> Callable[[str], bool]:
    """Whether the caller may know of a local model, which it may ask for by its short name too."""
    caller = principal()
    if caller is None or not caller.restricted:
        return lambda model: True
    short: dict[str, list[str]] = {}
    for name, model in cluster.aliases().items():
        short.setdefault(model, []).append(name)
    return lambda model: any(caller.may_ask(name) for name in (model, *short.get(model, ())))


def instances(cluster: ClusterPort) -> list[dict[str, Any]]:
    """The cluster's, of models that the caller may know of."""
    may = sees(cluster)
    return [one for one in cluster.instances() if may(one["model"])]


def topology(cluster: ClusterPort) -> dict[str, Any]:
    """The cluster's, with those instances only."""
    may, found = sees(cluster), cluster.topology()
    return {**found, "instances": [one for one in found["instances"] if may(one["model"])]}


def stats(found: Mapping[str, Any], deployments: Iterable[Mapping[str, Any]], caller: Principal) -> dict[str, Any]:
    """`found` (`RoutingPort.stats`) without other models; notes name any. Pure.

    A backend is a deployment's id, "ring:MODEL", or "auto:PROVIDER/MODEL"; a peer's has "@NODE" after it.
    """
    mine = [row for row in deployments if caller.may_ask(row["model_name"])]
    ids, models = {row["id"] for row in mine}, {row["model"] for row in mine}

    def may(row: Mapping[str, Any]) -> bool:
        backend = row["backend"].partition("@")[0]
        kind, colon, model = backend.partition(":")
        if backend in ids or not colon or kind not in ("ring", "auto"):
            return backend in ids
        return caller.may_ask(model) or (kind == "auto" and caller.may_ask(model.partition("/")[2]))

    records = found.get("record_models", {})
    return {
        **found,
        "model_list": [name for name in found["model_list"] if caller.may_ask(name)],
        "healthy_deployments": [model for model in found["healthy_deployments"] if model in models],
        "breakers": [row for row in found.get("breakers", ()) if may(row)],
        "profile": [row for row in found.get("profile", ()) if may(row)],
        "record_models": {
            name: {kind: model for kind, model in kinds.items() if caller.may_ask(model)}
            for name, kinds in records.items()
        },
        "notes": [],
    }
