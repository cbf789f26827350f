"""The OpenAPI 3.1 document of a running API: made of its routes and of what is said at their handlers. Pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from exo_node.api.operations import JSON, Operation, operation_of

REF = "#/components/schemas/{name}"
INFO = "One API over the models of a cluster of your own machines and over external providers."
# Canonical first: a route that is served under several prefixes is described once.
CANONICAL = re.compile(r"^/(v1|metrics|health|openapi|docs|api/(?!v1)|quit|state|bench)\b|^/$")
_FILE = {
    "type": "object",
    "properties": {"file": {"type": "string", "contentMediaType": "application/octet-stream"}},
    "required": ["file"],
}
_NAME = re.compile(r"{(\w+)(:[^}]*)?}")


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str  # with {names}
    handler: Any


@dataclass(slots=True)
class _Described:
    """One handler with one method, and everywhere that it is served."""

    route: Route
    operation: Operation
    also: list[str] = field(default_factory=list)


def document(routes: Iterable[Route], version: str, errors: Mapping[str, Any]) -> dict[str, Any]:
    """`errors` maps path prefixes to the schema (a Struct) of a failure there; "" is everywhere else's."""
    described = _described(routes)
    structs = {id(one): one for each in described for one in (each.operation.body, each.operation.answer) if one}
    structs |= {id(one): one for one in errors.values()}
    schemas, components = msgspec.json.schema_components(list(structs.values()), ref_template=REF)
    shown = dict(zip(structs, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    for one in described:
        entry = _entry(one, shown, errors)
        entry["operationId"] = _unique(_operation_id(one.route), names)
        paths.setdefault(_NAME.sub(r"{\1}", one.route.path), {})[one.route.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {"title": "exo-node", "version": version, "description": INFO},
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"key": []}],
        "tags": [{"name": tag} for tag in dict.fromkeys(one.operation.tag for one in described)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _described(routes: Iterable[Route]) -> list[_Described]:
    found: dict[tuple[str, Any], _Described] = {}
    for route in routes:
        if route.method == "HEAD":
            continue
        key = (route.method, getattr(route.handler, "__qualname__", repr(route.handler)))
        if key not in found:
            found[key] = _Described(route, operation_of(route.handler) or Operation(tag="Node"))
            continue
        one = found[key]
        if _names(route.path) != _names(one.route.path) and not _same_end(route.path, one.route.path):
            found[*key, route.path] = _Described(route, one.operation)  # type: ignore[index]
        elif CANONICAL.match(route.path) and not CANONICAL.match(one.route.path):
            one.also.append(one.route.path)
            one.route = route
        else:
            one.also.append(route.path)
    return sorted(found.values(), key=lambda one: (one.operation.tag, one.route.path, one.route.method))


def _names(path: str) -> list[str]:
    return [name for name, _ in _NAME.findall(path)]


def _same_end(one: str, other: str) -> bool:
    return one.rpartition("/")[2] == other.rpartition("/")[2]


def _entry(one: _Described, shown: Mapping[int, Any], errors: Mapping[str, Any]) -> dict[str, Any]:
    operation = one.operation
    text = inspect.getdoc(one.route.handler) or ""
    summary, _, more = text.partition("\n\n")
    also = f"Also at {', '.join(f'`{path}`' for path in sorted(set(one.also)))}." if one.also else ""
    described = "\n\n".join(part for part in (more, also) if part)
    entry: dict[str, Any] = {"tags": [operation.tag], "summary": " ".join(summary.split()) or one.route.path}
    if described:
        entry["description"] = described
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _names(one.route.path)
    ]
    asks = one.route.method in ("GET", "DELETE")  # one handler may take its query from these and its body from others
    if operation.query is not None and (asks or operation.body is None):
        parameters += _query(operation.query)
    if parameters:
        entry["parameters"] = parameters
    if operation.body is not None and not asks:
        media = "multipart/form-data" if operation.form else JSON
        schema = shown[id(operation.body)]
        if operation.form:
            schema = {"allOf": [schema, _FILE]}
        entry["requestBody"] = {"required": True, "content": {media: {"schema": schema}}}
    wrong = next((each for prefix, each in errors.items() if prefix and one.route.path.startswith(prefix)), errors[""])
    failure = {"description": "What was wrong.", "content": {JSON: {"schema": shown[id(wrong)]}}}
    if operation.status >= 400:  # all that it ever answers
        entry["responses"] = {str(operation.status): failure, "default": failure}
        return entry
    answer = shown[id(operation.answer)] if operation.answer is not None else {}
    content = {media: {"schema": answer} if media == JSON else {} for media in operation.answers}
    entry["responses"] = {
        str(operation.status): {"description": "The answer.", "content": content},
        "default": failure,
    }
    return entry


def _query(query: Any) -> list[dict[str, Any]]:
    (schema,), components = msgspec.json.schema_components([query], ref_template=REF)
    table = components[schema["$ref"].rpartition("/")[2]]
    required = table.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": one}
        for name, one in table["properties"].items()
    ]


def _operation_id(route: Route) -> str:
    name: str = getattr(route.handler, "__name__", "operation")
    return f"{route.method.lower()}_{name.strip('_')}"


def _unique(name: str, taken: set[str]) -> str:
    count, found = 1, name
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found
