"""YAML with positions. The only module of the daemon's side that imports yaml, and only a YAML file imports it."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import yaml

from exo_node.routing.configuration.located import (
    HALF,
    MAX_DEPTH,
    MAX_VALUES,
    FileProblems,
    Keys,
    Mark,
    PlainNumber,
    Source,
    is_text,
)

# PyYAML's numbers have a point and a signed exponent (YAML 1.1).
_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+")
_STRING, _DATE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"


def parse_yaml(name: str, text: str) -> Source:
    """One YAML document without custom tags; no key twice. Raises `FileProblems`.

    An unquoted date stays the text that it was written as (`api_version: 2024-02-01`).
    """
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as e:  # a character that YAML forbids; its text would quote the file
        raise FileProblems([f"{name}: not YAML: it holds a character that YAML does not allow"]) from e
    try:
        node = loader.get_single_node()
        if node is None:
            raise FileProblems([f"{name}: is empty"])
        walk = _Walk(name, loader)
        value = walk.value(node, (), None)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = "" if mark is None else f":{mark.line + 1}"
        raise FileProblems([f"{name}{line}: not YAML: {e.problem or e.context}"]) from e
    except RecursionError as e:
        raise FileProblems([f"{name}: not YAML: nested more than {MAX_DEPTH} deep"]) from e
    finally:
        loader.dispose()
    return Source(name, text, value, walk.marks)


class _Walk:
    def __init__(self, name: str, loader: yaml.SafeLoader) -> None:
        self.name, self.loader = name, loader
        self.marks: dict[Keys, Mark] = {}

    def value(self, node: yaml.Node, keys: Keys, key_node: yaml.Node | None) -> Any:
        if len(keys) > MAX_DEPTH:
            self._fail(f"nested more than {MAX_DEPTH} deep (or an alias that holds itself)", node)
        if len(self.marks) > MAX_VALUES:
            self._fail(f"more than {MAX_VALUES} values", node)
        self.marks[keys] = Mark(_line(key_node or node), node.start_mark.index, node.end_mark.index)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*keys, i), None) for i, item in enumerate(node.value)]
        if not is_text(node.value):
            self._fail(HALF, node)
        if node.tag == _DATE:
            return node.value
        plain = isinstance(node, yaml.ScalarNode) and node.style is None  # without quotes
        if plain and node.tag == _STRING and _EXPONENT.fullmatch(node.value):
            return PlainNumber(node.value)
        try:
            return self.loader.construct_object(node)
        except ValueError:  # `!!int abc`
            self._fail(f"not a value of {node.tag.rpartition(':')[2]}", node)

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        own: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._fail("a key must be a text", key_node)
            if not is_text(key_node.value):
                self._fail(HALF, key_node)
            if key_node.value in own:
                self._fail(f"the key {key_node.value!r} is given twice", key_node)
            own.add(key_node.value)
        self.loader.flatten_mapping(node)  # `<<: *other`: the other's come first, so that this one's own win
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            found[key_node.value] = self.value(value_node, (*keys, key_node.value), key_node)
        return found

    def _fail(self, message: str, node: yaml.Node) -> NoReturn:
        raise FileProblems([f"{self.name}:{_line(node)}: {message}"])


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
