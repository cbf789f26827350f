"""Which models are the same wherever they run, and which may stand in for each other. Pure.

Every model has an id: a row's of `data/equivalents.toml`, or "maker/model" ("openai/gpt-4o"), by rules that see through
hosts which sell other makers' models (Azure, OpenRouter, Bedrock, Vertex) and through dated names.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping

from exo_node.routing.catalog.tables import SameModel, Tables

# "-20241022", "-2024-08-06", "@20241022", "-latest": a version of the same model.
_DATE = re.compile(r"(?:[-@]20\d{6}|-20\d\d-\d\d-\d\d|-latest|@latest)$")
_BEDROCK = re.compile(r"(?:.*/)?(?:(?:us|eu|apac|jp|au|global|us-gov)\.)?([a-z0-9]+)\.(.+)")
_BEDROCK_VERSION = re.compile(r"-v\d+(?::\d+)*(?::[\dk]+)?$")
# OpenRouter's and Bedrock's words for makers.
_MAKERS = {"google": "gemini", "mistralai": "mistral", "x-ai": "xai", "moonshotai": "moonshot"}


def undated(model: str) -> str:
    """The name without its date ("claude-3-opus-20240229" -> "claude-3-opus")."""
    return _DATE.sub("", model)


def maker(provider: str, model: str) -> tuple[str, str]:
    """(maker, its name for the model) of what a provider serves; the provider itself where no rule knows better."""
    if provider == "openrouter" and "/" in model:
        org, _, rest = model.partition("/")
        rest = rest.partition(":")[0]
        if org == "anthropic":  # claude-3.5-sonnet: Anthropic writes claude-3-5-sonnet
            rest = rest.replace(".", "-")
        return _MAKERS.get(org, org), rest
    if provider == "bedrock" and (found := _BEDROCK.fullmatch(model)) is not None:
        return _MAKERS.get(found[1], found[1]), _BEDROCK_VERSION.sub("", found[2])
    if provider == "vertex_ai":
        return ("anthropic" if model.startswith("claude") else "gemini"), model
    if provider == "azure":
        return "openai", model.replace("gpt-35-", "gpt-3.5-")
    return provider, model


class Equivalents:
    """The tables, indexed. Ids are lower case."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._rows: dict[str, SameModel] = {row.id.lower(): row for row in tables.same}
        self._hosts: dict[str, str] = {}
        self._dated: dict[str, str] = {}  # "anthropic/claude-3-opus" -> the name that its provider takes
        self._names: dict[str, str] = {}
        for key, row in self._rows.items():
            for host in row.hosts:
                self._hosts[host.lower()] = key
                if (short := undated(host.lower())) != host.lower():
                    self._hosts.setdefault(short, key)
                    self._dated[short] = host.partition("/")[2]
            for name in (row.id, *row.names):
                self._names[name.lower()] = key
        self._classes: dict[str, list[tuple[str, ...]]] = {}
        for members in tables.classes:
            ids = tuple(self.id_of_name(name) for name in members)
            for one in ids:
                self._classes.setdefault(one, []).append(ids)

    def id_of(self, provider: str, model: str) -> str:
        """The id of what a provider serves. Azure's are names of deployments: the longest model name that begins one
        counts ("gpt-4o-eastus" is gpt-4o)."""
        low = model.lower()
        for name in (low, undated(low)):
            if (row := self._hosts.get(f"{provider}/{name}")) is not None:
                return row
        made_by, name = maker(provider, low)
        if provider == "azure":
            name = self._begins(name)
        if made_by == "litellm_proxy":
            return self.id_of_name(name)
        for one in (name, undated(name)):
            if (row := self._hosts.get(f"{made_by}/{one}")) is not None:
                return row
        if (row := self._names.get(undated(name))) is not None:
            return row
        return f"{made_by}/{undated(name)}"

    def id_of_name(self, name: str) -> str:
        """The id of what a request may ask for: a row's name, "provider/model", a cloud name, or the name itself."""
        low = name.lower()
        if (row := self._names.get(low) or self._names.get(undated(low))) is not None:
            return row
        prefix, slash, rest = name.partition("/")
        if slash and (provider := self._tables.provider(prefix)) is not None:
            return self.id_of(provider.id, rest)
        if (owner := self._tables.maker_of(name)) is not None:
            return self.id_of(owner.id, name)
        return low

    def id_of_local(self, names: Iterable[str]) -> str | None:
        """The id of a model on this cluster's disks, by its name and aliases; None where no row knows it."""
        for name in names:
            low = name.lower()
            for key, row in self._rows.items():
                if any(fnmatch.fnmatchcase(low, pattern) for pattern in row.local):
                    return key
        return None

    def is_row(self, name: str) -> bool:
        """Whether a name without a prefix is in the table ("llama-2-70b")."""
        return name.lower() in self._names

    def hosts(self, model_id: str) -> list[tuple[str, str]]:
        """(provider, its name for the model), the maker first."""
        row = self._rows.get(model_id)
        if row is not None:
            return [(provider, model) for provider, _, model in (host.partition("/") for host in row.hosts)]
        made_by, slash, name = model_id.partition("/")
        if not slash or self._tables.provider(made_by) is None:
            return []
        if model_id not in self._tables.models and f"{model_id}-latest" in self._tables.models:
            name = f"{name}-latest"
        found = [(made_by, name)]
        if made_by in ("openai", "anthropic", "gemini"):
            found.append(("openrouter", f"{'google' if made_by == 'gemini' else made_by}/{name}"))
        return found

    def spelled(self, provider: str, model: str) -> str:
        """What a provider itself calls a model asked for under a short name ("claude-3-opus" -> with its date)."""
        low = model.lower()
        dated = self._dated.get(f"{provider}/{low}")
        if dated is not None:
            return dated
        key = self._names.get(low)
        if key is None or f"{provider}/{low}" in self._hosts or f"{provider}/{low}" in self._tables.models:
            return model
        return next((name for host, name in self.hosts(key) if host == provider), model)

    def like(self, model_id: str) -> list[str]:
        """Ids of models of the same class, best first, without the model itself."""
        found: dict[str, None] = {}
        for members in self._classes.get(model_id, ()):
            found |= dict.fromkeys(one for one in members if one != model_id)
        return list(found)

    def _begins(self, name: str) -> str:
        known = [key.removeprefix("openai/") for key in self._tables.models if key.startswith("openai/")]
        fits = [one for one in known if name == one or name.startswith((f"{one}-", f"{one}_"))]
        return max(fits, key=len, default=name)


def expand(first: Iterable[str], lists: Mapping[str, tuple[str, ...]]) -> list[str]:
    """`first` and what `lists` lead to from there, breadth first, each once: lists may contain cycles."""
    found = dict.fromkeys(first)
    queue = list(found)
    while queue:
        for target in lists.get(queue.pop(0), ()):
            if target not in found:
                found[target] = None
                queue.append(target)
    return list(found)
