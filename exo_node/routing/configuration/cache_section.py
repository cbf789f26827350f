"""Reads where answers are kept (`cache`, `cache_params`, `cache_config`), and which Redis server is shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from exo_node import values
from exo_node.routing.configuration.draft import Draft
from exo_node.routing.configuration.redis_url import parse_redis_url
from exo_node.routing.configuration.section import Section

CACHE_KINDS: Mapping[str, str] = {
    "local": "memory",
    "memory": "memory",
    "in-memory": "memory",
    "disk": "sqlite",
    "sqlite": "sqlite",
    "redis": "redis",
}


def read_cache(section: Section, draft: Draft, *, ttl: bool = True) -> None:
    """`cache`, `cache_params`, `cache_config`: where answers are kept, and how long (`ttl` False: the caller's)."""
    kind = section.read("type", _cache_kind, literal_text=True)
    if kind is not None:
        draft.cache.kind = cast(Any, kind)
    kept = section.seconds("ttl") if ttl else None
    if kept is not None:
        draft.cache.ttl_s = kept
    limit = section.read("max_bytes", values.size, literal_text=True)
    if limit is not None:
        draft.cache.max_bytes = limit
    read_redis(section, draft, "")
    section.done()


def _cache_kind(raw: Any) -> str:
    if not isinstance(raw, str) or raw not in CACHE_KINDS:
        raise ValueError(f"wants memory, sqlite or redis, got {raw!r}")
    return CACHE_KINDS[raw]


def read_redis(section: Section, draft: Draft, prefix: str) -> None:
    """`redis_host` and so on, or `host` and so on; what is named beside a `redis_url` wins over it."""
    given = section.read(f"{prefix}url", parse_redis_url, literal_text=True) or {}
    draft.redis |= given
    tls = section.switch(f"{prefix}ssl")
    if tls is False and given.get("tls"):
        section.wrong(f"{prefix}ssl", f"is false, and {prefix}url says rediss://, which is TLS")
    _put(draft.redis, "tls", tls)
    _put(draft.redis, "ca_file", section.text(f"{prefix}ssl_ca_certs"))
    _put(draft.redis, "host", section.text(f"{prefix}host"))
    port = section.read(f"{prefix}port", values.integer(1, 65535), literal_text=True)  # exports quote it
    _put(draft.redis, "port", port)
    _put(draft.redis, "username", section.text(f"{prefix}username"))
    _put(draft.redis, "password", section.secret(f"{prefix}password"))
    _put(draft.redis, "db", section.count(f"{prefix}db"))


def _put(fields: dict[str, Any], name: str, value: Any) -> None:
    if value is not None:
        fields[name] = value
