"""Random JSON schemas whose answers end: nested, enums, constants, patterns, references, arrays, formats, unions."""

from __future__ import annotations

import random
from typing import Any

DEPTH = 3
FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname")
PATTERNS = ("^[a-f]{2,6}$", "^(yes|no)$", "^[A-Z][a-z]{1,8}$", "^\\d{3}-\\d{4}$", "^x(ab?){1,3}$", '^[^aeiou"]{1,4}$')
NAMES = ("name", "age", "Tags", "x-y", "caf\u00e9", "is it", "n1", "list")
WORDS = ("red", "green", "blue", "a b", 'say "hi"', "back\\slash", "\u00e9t\u00e9", "\u96ea", "", "null", "1")


def random_schema(seed: int) -> dict[str, Any]:
    """A schema that depends on the seed alone. Every text, list and number in it is bounded."""
    return _Maker(random.Random(f"schema {seed}")).root()


class _Maker:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._definitions: dict[str, Any] = {}

    def root(self) -> dict[str, Any]:
        schema = self._object(DEPTH) if self._rng.random() < 0.8 else self._any(DEPTH)
        if self._rng.random() < 0.3:
            schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Random", **schema}
        if self._definitions:
            schema = {**schema, "$defs": self._definitions}
        return schema

    def _any(self, depth: int) -> dict[str, Any]:
        leaves = [self._text, self._integer, self._number, self._enum, self._constant, self._plain]
        inner = [self._object, self._array, self._tuple, self._union, self._reference, self._nullable]
        if depth == 0 or self._rng.random() < 0.45:
            return self._rng.choice(leaves)()
        return self._rng.choice(inner)(depth - 1)

    def _object(self, depth: int) -> dict[str, Any]:
        names = self._rng.sample(NAMES, self._rng.randint(0, 4))
        schema: dict[str, Any] = {"type": "object", "properties": {name: self._any(depth) for name in names}}
        schema["required"] = [name for name in names if self._rng.random() < 0.7]
        schema["additionalProperties"] = False
        if self._rng.random() < 0.2:
            schema["description"] = "what it is for"
        return schema

    def _array(self, depth: int) -> dict[str, Any]:
        low = self._rng.randint(0, 2)
        return {"type": "array", "items": self._any(depth), "minItems": low, "maxItems": low + self._rng.randint(0, 2)}

    def _tuple(self, depth: int) -> dict[str, Any]:
        items = [self._any(depth) for _ in range(self._rng.randint(1, 2))]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}

    def _union(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self._any(depth) for _ in range(2)]}

    def _nullable(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self._any(depth), {"type": "null"}]}

    def _reference(self, depth: int) -> dict[str, Any]:
        name = f"d{self._rng.randint(0, 1)}"
        if name not in self._definitions:
            self._definitions[name] = {}  # taken: what is inside may refer to the other one only
            self._definitions[name] = self._any(0) if depth == 0 else self._object(0)
        return {"$ref": f"#/$defs/{name}"}

    def _text(self) -> dict[str, Any]:
        match self._rng.randrange(4):
            case 0:
                return {"type": "string", "pattern": self._rng.choice(PATTERNS)}
            case 1:
                return {"type": "string", "format": self._rng.choice(FORMATS), "maxLength": 40}
            case 2:
                low = self._rng.randint(0, 3)
                return {"type": "string", "minLength": low, "maxLength": low + self._rng.randint(0, 9)}
            case _:
                return {"type": "string", "maxLength": self._rng.randint(1, 12)}

    def _integer(self) -> dict[str, Any]:
        low = self._rng.randint(-50, 50)
        schema: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": low + self._rng.randint(0, 500)}
        if self._rng.random() < 0.2:
            schema = {"type": "integer", "minimum": 0, "exclusiveMaximum": 100, "multipleOf": self._rng.randint(2, 7)}
        return schema

    def _number(self) -> dict[str, Any]:
        return {"type": "number", "minimum": 0, "maximum": self._rng.randint(1, 99), "multipleOf": 0.25}

    def _enum(self) -> dict[str, Any]:
        values: list[Any] = [*self._rng.sample(WORDS, 3), self._rng.randint(-9, 9), None, True]
        return {"enum": self._rng.sample(values, self._rng.randint(1, 4))}

    def _constant(self) -> dict[str, Any]:
        return {"const": self._rng.choice([*WORDS, 7, -0.5, None, {"a": [1, "b"]}, []])}

    def _plain(self) -> dict[str, Any]:
        return {"type": self._rng.choice(["boolean", "null", ["boolean", "null"]])}
