"""A Redis server's address as one text: `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, with TLS as `rediss://` (pure)."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

_WANTED = "wants redis://[USER:PASSWORD@]HOST[:PORT][/DB], or rediss:// for TLS"
_CA_FILE = "ssl_ca_certs"  # redis-py's name, in the query of an address


def parse_redis_url(raw: Any) -> dict[str, Any]:
    """The fields of `RedisConfig` that the address gives.

    Raises ValueError, which does not quote the address: a password may be in it.
    """
    try:
        parts = urlsplit(raw if isinstance(raw, str) else "")
        port, db = parts.port, parts.path.strip("/")
    except ValueError as e:
        raise ValueError(_WANTED) from e
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or port == 0 or (db and not db.isdecimal()):
        raise ValueError(_WANTED)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    ca_file = options.pop(_CA_FILE, None)
    if options or parts.fragment:
        raise ValueError(f"{_WANTED}; of what may follow a ? only {_CA_FILE}=FILE means something here")
    found = {
        "host": parts.hostname,
        "port": port,
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "db": int(db) if db else None,
        "ca_file": ca_file or None,
    }
    return {"tls": parts.scheme == "rediss", **{name: value for name, value in found.items() if value is not None}}
