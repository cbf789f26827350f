"""`exo apikey add|list|revoke`: keys for the clients of this machine's nodes. Works on the database alone."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from exo_node import values
from exo_node.cli.audit import note
from exo_node.cli.parser import Parsed, Parser
from exo_node.cli.table import table
from exo_node.errors import ConfigurationError

if TYPE_CHECKING:
    from exo_node.limits.api_keys import ApiKeys, KeyInfo

_UNITS_S = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
# What only `add` takes: argument -> (how to read it, metavar, help).
_NEW: dict[str, tuple[Any, str, str]] = {
    "name": (values.text, "NAME", "what to call it (add)"),
    "rpm": (values.integer(1), "N", "requests per minute (add)"),
    "tpm": (values.integer(1), "N", "tokens per minute (add)"),
    "concurrency": (values.integer(1), "N", "requests at once, on each node (add)"),
    "user_rpm": (values.integer(1), "N", "requests per minute of each `user` that requests name (add)"),
    "user_tpm": (values.integer(1), "N", "tokens per minute of each `user` that requests name (add)"),
    "budget": (None, "USD[/day|/month]", "money that may be spent with it, per month unless it says /day (add)"),
    "scope": (None, "SCOPES", "use (default): ask models; read: see what was spent; admin: everything; commas (add)"),
    "expires": (None, "TIME", "when it ends: 12h, 30d, 2027-06-30 (with that day, UTC) (add)"),
    "models": (None, "NAMES", "models it may ask for, with commas; patterns like gpt-* too (add)"),
}


def arguments(parser: Parser, verb: str) -> None:
    parser.add_argument("action", choices=("add", "list", "revoke"), metavar="add|list|revoke")
    parser.add_argument("key", nargs="?", metavar="KEY", help="name or id of the key (revoke)")
    for name, (_, metavar, about) in _NEW.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar=metavar, help=about)
    parser.add_argument("--admin", action="store_true", help="the same as --scope admin (add)")


def run(parsed: Parsed, verb: str) -> int:
    own = vars(parsed.own)
    action = own["action"]
    if action != "add":
        for name in (*_NEW, "admin"):
            if name in own and own[name] is not False:
                raise ConfigurationError(f"--{name.replace('_', '-')} belongs to exo apikey add")
    if (action == "revoke") != ("key" in own and own["key"] is not None):
        raise ConfigurationError(
            "exo apikey revoke KEY: give the key's name or id (see exo apikey list)"
            if action == "revoke"
            else f"exo apikey {action} takes no KEY: name a new one with --name"
        )
    return asyncio.run(_run(parsed, action, own))


async def _run(parsed: Parsed, action: str, own: dict[str, Any]) -> int:
    from exo_node.limits.api_keys import ApiKeys
    from exo_node.store import Store, store_path

    store = Store(store_path(parsed.settings().home))
    try:
        keys = ApiKeys(store)
        done = ""
        if action == "add":
            done = await _add(keys, own)
        elif action == "revoke":
            gone = await keys.revoke(own["key"])
            done = f"{gone.id} {gone.name}"
            print(f"revoked {gone.name or gone.id}; running nodes refuse it within a second")
        else:
            await _list(keys)
        if done:
            await asyncio.to_thread(note, parsed.settings().home, f"exo apikey {action}", done)
    finally:
        await asyncio.to_thread(store.close)
    return 0


async def _add(keys: ApiKeys, own: dict[str, Any]) -> str:
    """Which key was made."""
    from exo_node.limits.api_keys import KeyInfo

    given: dict[str, Any] = {"scopes": _scopes(own)}
    for name, (read, _, _) in _NEW.items():
        if name in own and read is not None:
            try:
                given[name] = read(own[name])
            except ValueError as e:
                raise ConfigurationError(f"--{name.replace('_', '-')}: {e}") from e
    if "budget" in own:
        given["budget"], given["period"] = _budget(own["budget"])
    if "expires" in own:
        given["expires"] = expiry(own["expires"], time.time())
    if "models" in own:
        given["models"] = tuple(part.strip() for part in own["models"].split(",") if part.strip())
        if not given["models"]:
            raise ConfigurationError("--models: name at least one model")
    info, secret = await keys.add(KeyInfo(id="", **given))
    print(secret)
    print(f"{info.label}: shown only now; clients send it as 'Authorization: Bearer KEY'", file=sys.stderr)
    if len(keys.list()) == 1:
        print("exo: this is the first: from now on this machine's nodes want a key with every request", file=sys.stderr)
    return f"{info.id} {info.name} ({', '.join(info.scopes)})"


def _scopes(own: dict[str, Any]) -> tuple[str, ...]:
    from exo_node.limits.api_keys import SCOPES

    asked = [part.strip() for part in own.get("scope", "").split(",") if part.strip()]
    for one in asked:
        if one not in SCOPES:
            raise ConfigurationError(f"--scope: wants one of {', '.join(SCOPES)}, or several with commas; got {one!r}")
    if own.get("admin"):
        asked.append("admin")
    return tuple(dict.fromkeys(asked)) or ("use",)


def expiry(text: str, now: float) -> float:
    """Seconds since 1970: an age from `now`, or the end of a day (UTC), or a time in ISO 8601."""
    number, unit = text[:-1], _UNITS_S.get(text[-1:])
    if number.isascii() and number.isdigit() and len(number) < 6 and unit is not None:
        found = now + int(number) * unit
    else:
        try:
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
            found = (at + timedelta(days=1) if len(text) <= len("2027-06-30") else at).timestamp()
        except (ValueError, OverflowError) as e:
            raise ConfigurationError(f"--expires: wants 12h, 30d, 8w or a date such as 2027-06-30, got {text!r}") from e
    if found <= now:
        raise ConfigurationError(f"--expires: {text!r} is over already")
    return found


def _budget(text: str) -> tuple[float, str]:
    amount, _, period = text.partition("/")
    if period not in ("", "day", "month"):
        raise ConfigurationError(f"--budget: per day or per month, not per {period!r}")
    try:
        return values.number(0)(amount), period or "month"
    except ValueError as e:
        raise ConfigurationError(f"--budget: {e}") from e


async def _list(keys: ApiKeys) -> None:
    await keys.refresh()
    if not keys.list():
        print("no API keys; make one with: exo apikey add --name NAME")
        return
    now = time.time()
    print(table(("ID", "NAME", "MADE", "EXPIRES", "RIGHTS"), [_row(info, now) for info in keys.list()]))


def _row(info: KeyInfo, now: float) -> tuple[str, str, str, str, str]:
    rights = list(info.scopes)
    for name in ("rpm", "tpm", "concurrency", "user_rpm", "user_tpm"):
        if (most := getattr(info, name)) is not None:
            rights.append(f"{name.replace('_', '-')} {most}")
    if info.budget is not None:
        rights.append(f"{info.budget:g} USD/{info.period}")
    if info.models:
        rights.append(f"models {','.join(info.models)}")
    over = info.expires is not None and info.expires <= now
    ends = "never" if info.expires is None else f"{_day(info.expires)}{' (over)' if over else ''}"
    return info.id, info.name, _day(info.created), ends, ", ".join(rights)


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
