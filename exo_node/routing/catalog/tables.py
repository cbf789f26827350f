"""What is known of providers and models without asking anybody: the tables in `data/`, and the user's own over them.

The shipped files lie in the package, so that an installed wheel has them. The user's is `models.toml` in the exo home
folder (`configs/models.toml` is a working example); it has the shipped files' tables as `[providers.NAME]`,
`[models.PROVIDER]`, `[[model]]` and `[[class]]`, adds to them and wins over them.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from exo_node.errors import ConfigurationError
from exo_node.routing.call import Capability
from exo_node.routing.deployment import Mention, Price

OWN_FILE = "models.toml"
_CAPABILITIES = frozenset(get_args(Capability))


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider; `data/providers.toml` explains the fields."""

    id: str
    name: str
    litellm: str = ""
    aliases: tuple[str, ...] = ()
    renames: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    credentials: tuple[tuple[str, ...], ...] = ()
    key_params: tuple[str, ...] = ()
    keyless: bool = False
    paid: bool = False
    address: tuple[str, ...] = ()
    base: str = ""
    wire: Literal["openai", "litellm"] = "litellm"
    root_v1: bool = False
    names: tuple[str, ...] = ()
    not_names: tuple[str, ...] = ()
    can: frozenset[Capability] = frozenset()
    adds: frozenset[Capability] = frozenset()
    list_price: bool = False
    features: tuple[str, ...] = ()
    example: str = ""

    def names_model(self, name: str) -> bool:
        """Whether a name without a prefix is one of this provider's."""
        low = name.lower()
        return any(fnmatch.fnmatchcase(low, p) for p in self.names) and not any(
            fnmatch.fnmatchcase(low, p) for p in self.not_names
        )


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One provider's model: price (None: unknown), context in tokens (None: unknown), and what it can do."""

    price: Price | None = None
    context: int | None = None
    can: frozenset[Capability] = frozenset()


@dataclass(frozen=True, slots=True)
class SameModel:
    """One model under all its names. `hosts`: "provider/model"; `local`: shell patterns in lower case."""

    id: str
    hosts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    local: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tables:
    """`models` by "provider/model" in lower case; `classes`: ids of models that are alike enough, best first."""

    providers: Mapping[str, Provider]
    others: frozenset[str]
    models: Mapping[str, ModelFacts]
    spelled: Mapping[str, str]  # lower case -> as written
    same: tuple[SameModel, ...]
    classes: tuple[tuple[str, ...], ...]
    _prefixes: Mapping[str, Provider] = field(repr=False)
    mentions: tuple[Mention, ...] = ()  # of the user's file: models in its classes

    def provider(self, prefix: str) -> Provider | None:
        """The provider that a prefix means, after our renames; a plain one for what only LiteLLM knows."""
        known = self._prefixes.get(prefix)
        if known is None and prefix in self.others:
            return plain(prefix)
        return known

    def maker_of(self, name: str) -> Provider | None:
        """The provider to which a model name without a prefix belongs ("gpt-4o" -> openai)."""
        return next((p for p in self.providers.values() if p.names_model(name)), None)

    def models_of(self, provider: str) -> list[str]:
        """The names of a provider's models that are shipped."""
        start = f"{provider}/"
        return [self.spelled[key][len(start) :] for key in self.models if key.startswith(start)]


def plain(prefix: str) -> Provider:
    """A provider of which nothing but its prefix is known."""
    variable = f"{prefix.upper().replace('-', '_')}_API_KEY"
    can: frozenset[Capability] = frozenset({"tools", "vision", "json_schema", "embedding"})
    return Provider(id=prefix, name=prefix, keys=(variable,), can=can, example=f"{prefix}/model-name")


def load_tables(own: Path | None = None) -> Tables:
    """The shipped tables, and those of the user's file where it is there.

    Raises `ConfigurationError` that names the file and the key.
    """
    reader = _Reader()
    folder = resources.files("exo_node.routing.catalog").joinpath("data")
    for name in ("providers", "models", "equivalents"):
        table = tomllib.loads(folder.joinpath(f"{name}.toml").read_text(encoding="utf-8"))
        reader.read(f"{name}.toml", table if name == "equivalents" else {name: table})
    if own is not None and own.is_file():
        try:
            text = own.read_text(encoding="utf-8")
            reader.read(str(own), tomllib.loads(text), text)
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigurationError(f"{own}: cannot be read: {e}") from e
        except tomllib.TOMLDecodeError as e:
            raise ConfigurationError(f"{own}: not TOML: {e}") from e
    return reader.tables()


_PROVIDER_FIELDS = {one.name: one for one in fields(Provider) if one.name != "id"}


class _Reader:
    def __init__(self) -> None:
        self._providers: dict[str, dict[str, Any]] = {}
        self._others: set[str] = set()
        self._models: dict[str, ModelFacts] = {}
        self._spelled: dict[str, str] = {}
        self._same: dict[str, SameModel] = {}
        self._classes: dict[str, tuple[str, ...]] = {}
        self._hosts: list[tuple[str, str]] = []
        self._mentions: list[Mention] = []

    def read(self, file: str, table: Mapping[str, Any], text: str = "") -> None:
        """`text`: of the user's file, whose names may be wrong."""
        _known(file, "", table, ("providers", "models", "model", "class"))
        for name, record in _table(file, "providers", table.get("providers", {})).items():
            if name == "others":
                self._others |= set(_texts(file, "others", record))
            else:
                self._providers[name] = {**self._providers.get(name, {}), **_provider(file, name, record)}
        for provider, rows in _table(file, "models", table.get("models", {})).items():
            for model, row in _table(file, provider, rows).items():
                key = f"{provider}/{model}"
                self._models[key.lower()] = _facts(file, f"{provider}.{model}", row)
                self._spelled[key.lower()] = key
        for row in _rows(file, "model", table.get("model", [])):
            _known(file, "model", row, ("id", "hosts", "names", "local"))
            lists = {name: _texts(file, f"model.{name}", row.get(name, [])) for name in ("hosts", "names", "local")}
            lists["local"] = tuple(pattern.lower() for pattern in lists["local"])
            self._same[_id(file, "model", row)] = SameModel(_id(file, "model", row), **lists)
            self._hosts += [(file, host) for host in lists["hosts"]]
        for row in _rows(file, "class", table.get("class", [])):
            _known(file, "class", row, ("id", "models"))
            name = _id(file, "class", row)
            self._classes[name] = _texts(file, "class.models", row.get("models", []))
            for model in self._classes[name] if text else ():
                line = text.count("\n", 0, max(0, text.find(f'"{model}"', max(0, text.find(f'"{name}"'))))) + 1
                self._mentions.append(Mention(f"{file}:{line}", f"class {name}", model, "class"))

    def tables(self) -> Tables:
        providers = {name: Provider(id=name, **{"name": name, **record}) for name, record in self._providers.items()}
        prefixes: dict[str, Provider] = {}
        for provider in providers.values():
            for prefix in (provider.id, *provider.aliases, *provider.renames):
                prefixes[prefix] = provider
        for file, host in self._hosts:
            prefix, slash, _ = host.partition("/")
            if not slash or (prefix not in prefixes and prefix not in self._others):
                raise _wrong(file, "model.hosts", f'"provider/model" of a known provider; got {host!r}')
        return Tables(
            providers=providers,
            others=frozenset(self._others),
            models=self._models,
            spelled=self._spelled,
            same=tuple(self._same.values()),
            classes=tuple(self._classes.values()),
            _prefixes=prefixes,
            mentions=tuple(self._mentions),
        )


def _provider(file: str, name: str, record: Any) -> dict[str, Any]:
    where = f"providers.{name}"
    read: dict[str, Any] = {}
    _known(file, where, _table(file, where, record), tuple(_PROVIDER_FIELDS))
    for key, value in record.items():
        kind = str(_PROVIDER_FIELDS[key].type)
        if kind == "bool":
            if not isinstance(value, bool):
                raise _wrong(file, f"{where}.{key}", "true or false")
            read[key] = value
        elif kind.startswith("frozenset"):
            read[key] = _can(file, f"{where}.{key}", value)
        elif key == "credentials":
            if not isinstance(value, list):
                raise _wrong(file, f"{where}.{key}", "a list of lists of variables")
            read[key] = tuple(_texts(file, f"{where}.{key}", one) for one in value)
        elif kind.startswith("tuple"):
            read[key] = _texts(file, f"{where}.{key}", value)
        elif not isinstance(value, str):
            raise _wrong(file, f"{where}.{key}", "a text")
        else:
            read[key] = value
    if read.get("wire", "litellm") not in ("openai", "litellm"):
        raise _wrong(file, f"{where}.wire", '"openai" or "litellm"')
    return read


def _facts(file: str, where: str, row: Any) -> ModelFacts:
    where = f"models.{where}"
    _known(file, where, _table(file, where, row), ("price", "per_call", "context", "can"))
    price = row.get("price")
    if price is not None:
        numbers = price if isinstance(price, list) else []
        if len(numbers) not in (2, 3) or not all(_is_amount(number) for number in numbers):
            raise _wrong(file, f"{where}.price", "[input, output] or [input, output, cached] in USD per million tokens")
    if not _is_amount(row.get("per_call", 0)):
        raise _wrong(file, f"{where}.per_call", "USD per call")
    context = row.get("context")
    if context is not None and (not isinstance(context, int) or isinstance(context, bool) or context < 1):
        raise _wrong(file, f"{where}.context", "a number of tokens")
    made = None
    if price is not None:
        cached = float(price[2]) if len(price) > 2 else None
        made = Price(float(price[0]), float(price[1]), float(row.get("per_call", 0)), cached)
    return ModelFacts(made, context, _can(file, f"{where}.can", row.get("can", [])))


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _can(file: str, where: str, value: Any) -> frozenset[Capability]:
    words = _texts(file, where, value)
    if odd := [word for word in words if word not in _CAPABILITIES]:
        raise _wrong(file, where, f"some of {', '.join(sorted(_CAPABILITIES))}; got {odd[0]!r}")
    return frozenset(words)  # type: ignore[arg-type]


def _texts(file: str, where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise _wrong(file, where, "a list of texts")
    return tuple(value)


def _table(file: str, where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(file, where, "a table")
    return value


def _rows(file: str, where: str, value: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise _wrong(file, where, f"tables, as [[{where}]]")
    return value


def _id(file: str, where: str, row: Mapping[str, Any]) -> str:
    if not isinstance(row.get("id"), str) or not row["id"]:
        raise _wrong(file, f"{where}.id", "a text")
    return str(row["id"])


def _known(file: str, where: str, table: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in table:
        if key not in keys:
            place = f"{where}: " if where else ""
            raise ConfigurationError(f"{file}: {place}unknown key {key!r}; known: {', '.join(keys)}")


def _wrong(file: str, where: str, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"{file}: {where} wants {wanted}")
