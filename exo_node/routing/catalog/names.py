"""Which way the name in a request goes. Pure.

Four kinds (FEATURES, "Which way a name goes"): (1) a configured deployment, an alias of the user's, a provider's
prefix, or any name with the field `provider`: external; (2) else a model of this cluster: the ring; (3) else a cloud
name: its provider; (4) else unknown: LiteLLM first, then a near local name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from exo_node.routing.call import Capability
from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.tables import Tables

NameKind = Literal["deployment", "alias", "provider", "local", "cloud", "unknown"]
RING = frozenset({"exo-ring", "ring", "local"})  # the field `provider` may ask for the ring
ANY_EXTERNAL = "litellm"  # document 002: ProviderFactory.create("litellm", ...)
_TOKEN = re.compile(r"[^a-z0-9.]+")
_PLAIN = re.compile(r"(\w[\w.-]*/)?\w[\w .:-]*")  # a name, or organisation/name: no path is near to anything


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model that the ring serves or can load. `reason`: why it cannot (`loadable` False).

    `slots`: sequences at once while loaded. `cold_s`: predicted seconds until one that is not loaded is ready.
    `aliases`: other names for it; `copies`: names given to it here, which say nothing of what model it is. `prefill` is
    how an answer that broke off is continued. `here` False: it would have to be fetched first, so only its own name
    means it; it stands in for no other model.
    """

    id: str
    loaded: bool
    loadable: bool = True
    here: bool = True
    context: int | None = None
    slots: int | None = None
    cold_s: float = 0.0
    aliases: tuple[str, ...] = ()
    capabilities: frozenset[Capability] = frozenset({"prefill", "logprobs", "json_schema", "tools", "embedding"})
    reason: str = ""
    copies: tuple[str, ...] = ()


def find_local(name: str, models: Sequence[LocalModel]) -> LocalModel | None:
    """The local model of exactly that name; else of that name or alias in any case."""
    low = name.lower()
    exact = next((one for one in models if one.id == name), None)
    return exact or next((one for one in models if low in map(str.lower, (one.id, *one.aliases, *one.copies))), None)


def find_near(name: str, models: Sequence[LocalModel]) -> LocalModel | None:
    """The local model whose name has every word of `name`, in order ("llama-3.2-1b" -> "org/Llama-3.2-1B-Instruct").

    Of several the one with the fewest words more, then a loaded one, then the first by name; None where there is none.
    """
    asked = _words(name) if _PLAIN.fullmatch(name) else []
    if not asked:
        return None
    fits = []
    for model in models:
        extra = min((_extra(asked, _words(one)) for one in (model.id, *model.aliases)), default=None)
        if extra is not None and extra != _NEVER and model.loadable and model.here:
            fits.append((extra, not model.loaded, model.id, model))
    return min(fits, key=lambda fit: fit[:3])[3] if fits else None


_NEVER = 1 << 30


def _words(name: str) -> list[str]:
    return [word for word in _TOKEN.split(name.lower().rpartition("/")[2]) if word]


def _extra(asked: list[str], there: list[str]) -> int:
    """How many words `there` has more than `asked`; `_NEVER` where one is missing or they come in another order.

    The first words must be the same: "70b" is no near name of anything.
    """
    if not there or there[0] != asked[0]:
        return _NEVER
    rest = iter(there)
    return len(there) - len(asked) if all(word in rest for word in asked) else _NEVER


def kind_of(
    name: str,
    *,
    provider: str | None,
    deployments: Collection[str],
    aliases: Collection[str],
    local: Sequence[LocalModel],
    tables: Tables,
    equivalents: Equivalents,
) -> NameKind:
    """The kind of a name, by the first rule that fits. `deployments`: names of the configured ones."""
    if provider is not None and provider not in RING:
        return "provider"
    if name in deployments:
        return "deployment"
    if name in aliases:
        return "alias"
    prefix, slash, rest = name.partition("/")
    if slash and rest and tables.provider(prefix) is not None:
        return "provider"
    if find_local(name, local) is not None:
        return "local"
    if tables.maker_of(name) is not None or equivalents.is_row(name):
        return "cloud"
    return "unknown"


def proxy_moves(environment: Mapping[str, str]) -> bool:
    """Whether `USE_LITELLM` or `LITELLM_URL` takes cloud names and unknown ones to LiteLLM; the former says so last."""
    said = environment.get("USE_LITELLM", "").strip().lower()
    if said:
        return said in ("1", "true", "yes", "on")
    return bool(proxy_address(environment))


def proxy_address(environment: Mapping[str, str]) -> str:
    """The upstream LiteLLM proxy, "" for none."""
    return environment.get("LITELLM_BASE_URL") or environment.get("LITELLM_URL") or ""


def not_found_text(name: str, there: Iterable[str], *, first: Iterable[str] = (), why: str = "") -> str:
    """What to say of a name that nobody knows: the nearest names, then what there is; of that `first` (configured, or
    on the disk) before what might be there."""
    known = list(dict.fromkeys((*sorted(first, key=str.lower), *sorted(there, key=str.lower))))
    text = f"no model {name[:200]!r}" + (f": {why}" if why else "")
    if close := difflib.get_close_matches(name, [one for one in known if one != name], n=3, cutoff=0.6):
        text += f" (did you mean {' or '.join(repr(one) for one in close)}?)"
    shown = ", ".join(known[:40]) or "nothing"
    more = f", and {len(known) - 40} more" if len(known) > 40 else ""
    return f"{text}; there are: {shown}{more}"
