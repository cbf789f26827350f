"""What a LiteLLM model string means: which provider, which model there, at which address, with which key. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from exo_node.routing.catalog.tables import Provider, Tables, plain
from exo_node.routing.deployment import Deployment

Key = Literal["present", "missing", "invalid", "keyless"]
_OPENAI_LIKE = "openai"  # what LiteLLM calls a server of OpenAI's wire format that has no name


@dataclass(frozen=True, slots=True)
class Target:
    """`litellm_model` is what LiteLLM is told; `model` what the provider is."""

    provider: Provider | None
    model: str
    litellm_model: str


def target_of(litellm_model: str, params: Mapping[str, Any], tables: Tables) -> Target:
    """Provider and model of a `litellm_params.model`, with `custom_llm_provider` where the string has no prefix.

    `provider` None: nothing says whose it is.
    """
    custom = params.get("custom_llm_provider")
    prefix, slash, rest = litellm_model.partition("/")
    known = tables.provider(prefix) if slash else None
    if known is not None and not (custom and custom not in (prefix, known.id)):
        return Target(known, rest, f"{_litellm_prefix(prefix, known)}/{rest}")
    if isinstance(custom, str) and custom:
        provider = tables.provider(custom) or plain(custom)
        return Target(provider, litellm_model, f"{_litellm_prefix(custom, provider)}/{litellm_model}")
    if (owner := tables.maker_of(litellm_model)) is not None:
        return Target(owner, litellm_model, f"{_litellm_prefix(owner.id, owner)}/{litellm_model}")
    if params.get("api_base") or params.get("base_url"):
        return Target(tables.providers[_OPENAI_LIKE], litellm_model, f"{_OPENAI_LIKE}/{litellm_model}")
    return Target(plain(prefix) if slash else None, rest or litellm_model, litellm_model)


def _litellm_prefix(prefix: str, provider: Provider) -> str:
    """Prefixes that LiteLLM itself tells apart (ollama_chat) stay; ours become LiteLLM's."""
    return prefix if prefix in provider.aliases else provider.litellm or provider.id


def complete(deployment: Deployment, environment: Mapping[str, str], tables: Tables) -> Deployment:
    """The deployment with provider, model, address, key and transport filled in from its string and the environment.

    What it says itself wins. `transport` "auto" becomes "passthrough" where the provider speaks OpenAI's wire format,
    else "litellm". A deployment whose provider nobody knows comes back with `provider` "".
    """
    params = dict(deployment.params)
    target = target_of(deployment.litellm_model, params, tables)
    provider = target.provider
    if provider is None:
        return replace(deployment, provider="", upstream_model=target.model, transport=_explicit(deployment))
    given = _text(deployment.api_base) or _text(params.get("api_base")) or _text(params.get("base_url"))
    base = given or address_in(provider, environment) or provider.base
    key = key_of(provider, params, environment)
    if deployment.key_problem:
        key = "missing"  # no other key in place of the one that it names
    elif key == "missing" and given and provider.id == _OPENAI_LIKE:
        key = "keyless"  # a server of one's own that speaks OpenAI's wire format
    elif not _text(params.get("api_key")) and (value := api_key_in(provider, environment)):
        params["api_key"] = value
    if provider.litellm and base:  # LiteLLM does not know where it is
        params["api_base"] = _with_v1(base) if provider.root_v1 else base
    if provider.id == "azure":
        _azure(params, environment)
    elif provider.id == "gemini":
        root = _gemini(base)
        base = f"{root}/openai"
        if root != _gemini(provider.base):  # LiteLLM knows that one
            params["api_base"] = root
    transport = deployment.transport
    if transport == "auto":
        transport = "passthrough" if provider.wire == "openai" and not _wants_litellm(params) else "litellm"
    if provider.root_v1 and base:
        base = _with_v1(base)
    return replace(
        deployment,
        litellm_model=target.litellm_model,
        provider=provider.id,
        upstream_model=target.model,
        params=params,
        transport=transport,
        api_base=base or None,
        key="invalid" if deployment.key == "invalid" else key,
    )


def key_of(provider: Provider, params: Mapping[str, Any], environment: Mapping[str, str]) -> Key:
    """Whether there is a key for the provider; nothing is sent to find out whether it is a good one."""
    if any(_text(params.get(name)) for name in ("api_key", *provider.key_params)):
        return "present"
    if key_in(provider, environment):
        return "present"
    return "keyless" if provider.keyless else "missing"


def key_in(provider: Provider, environment: Mapping[str, str]) -> bool:
    """Whether the environment holds a key for the provider."""
    return bool(api_key_in(provider, environment)) or any(
        all(environment.get(name) for name in one) for one in provider.credentials
    )


def api_key_in(provider: Provider, environment: Mapping[str, str]) -> str:
    return next((environment[name] for name in provider.keys if environment.get(name)), "")


def address_in(provider: Provider, environment: Mapping[str, str]) -> str:
    """The address that the environment gives the provider, "" for none."""
    return next((environment[name] for name in provider.address if environment.get(name)), "")


def reachable(provider: Provider, environment: Mapping[str, str]) -> bool:
    """Whether a deployment may be made of nothing but the environment: a key, or, without keys, an address."""
    if provider.keyless:
        return bool(address_in(provider, environment))
    if provider.wire == "openai" and not provider.base and not address_in(provider, environment):
        return False
    return key_in(provider, environment)


def how_to_get_a_key(provider: Provider) -> str:
    """What to set, for people."""
    ways = [*provider.keys[:1], *(" and ".join(one) for one in provider.credentials[:1])]
    return "set " + " or ".join(ways) if ways else "give it an api_key"


def _explicit(deployment: Deployment) -> Literal["passthrough", "litellm"]:
    return "passthrough" if deployment.transport == "passthrough" else "litellm"


def _wants_litellm(params: Mapping[str, Any]) -> bool:
    """Azure's client credentials need a token from Entra first; LiteLLM fetches it. An answer that is only played is
    LiteLLM's: the provider's own would cost money."""
    played = any(params.get(name) is not None for name in ("mock_response", "mock_tool_calls"))
    return played or bool(_text(params.get("client_secret")) or _text(params.get("azure_username")))


def _azure(params: dict[str, Any], environment: Mapping[str, str]) -> None:
    if not params.get("api_version") and environment.get("AZURE_API_VERSION"):
        params["api_version"] = environment["AZURE_API_VERSION"]
    if not _text(params.get("api_key")) and not params.get("azure_ad_token") and environment.get("AZURE_AD_TOKEN"):
        params["azure_ad_token"] = environment["AZURE_AD_TOKEN"]


def _gemini(base: str) -> str:
    """Where Gemini's own API is (LiteLLM asks there), of its address with or without `/v1beta` and `/v1beta/openai`,
    where it speaks OpenAI's wire format."""
    return _with_path(base.rstrip("/").removesuffix("/openai"), "/v1beta")


def _with_v1(base: str) -> str:
    """An address that is only a host gets the path at which everybody serves OpenAI's wire format."""
    return _with_path(base, "/v1")


def _with_path(base: str, path: str) -> str:
    try:
        bare = not urlsplit(base).path.strip("/")
    except ValueError:  # who asks at it is told
        return base
    return base.rstrip("/") + path if bare else base


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
