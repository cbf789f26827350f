"""API keys of this machine's nodes: made once and shown once, kept as hashes, looked up without waiting.

A key is 256 random bits, so one SHA-256 is as good as a slow hash: there is nothing to guess.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from exo_node.errors import InvalidRequest, KeyExpired, ModelNotAllowed, NotFound, StoreError, Unauthorized
from exo_node.limits.budgets import Period

log = logging.getLogger("exo.limits")

PREFIX = "sk-exo-"
WATCH_S = 1.0  # how soon a key that was added or revoked counts in a running node
SCOPES = ("use", "read", "admin")  # ask models; see what was spent too; everything
ADMIN_ID = "admin"  # what the key of --api-key and master_key is called in spend and limits


class KeyRows(Protocol):
    """Where keys are kept (the store). Rows: `id, name, hash, created, scopes, models, rpm, tpm, ...`."""

    async def keys(self) -> list[dict[str, Any]]: ...

    async def add_key(self, row: Mapping[str, Any]) -> None: ...

    async def remove_key(self, key_id: str) -> bool: ...

    def stamp(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """What a key may do; nothing of it is secret. Limits are per minute, `budget` USD per `period`; None: no limit.

    `models` are names and patterns ("gpt-*"); empty: all. `user_rpm` and `user_tpm` hold for each `user` that
    requests with this key name. `scopes` are of `SCOPES`. `expires`: wall-clock, from when on it is refused.
    `concurrency`: requests at once, on each node.
    """

    id: str
    name: str = ""
    created: float = 0.0
    scopes: tuple[str, ...] = ("use",)
    models: tuple[str, ...] = ()
    rpm: int | None = None
    tpm: int | None = None
    user_rpm: int | None = None
    user_tpm: int | None = None
    budget: float | None = None
    period: Period = "month"
    expires: float | None = None
    concurrency: int | None = None

    @property
    def admin(self) -> bool:
        return "admin" in self.scopes

    @property
    def label(self) -> str:
        return f"API key {self.name or self.id!r}"

    def allows(self, model: str) -> bool:
        return not self.models or any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)

    def check_model(self, model: str) -> None:
        """Raises `ModelNotAllowed`."""
        if not self.allows(model):
            raise ModelNotAllowed(
                f"{self.label} may not ask for {model[:80]!r}; it may ask for: {', '.join(self.models)}", param="model"
            )


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class ApiKeys:
    """The keys as of the last look at the store. `admin_secrets`: --api-key and the configuration's master_key."""

    def __init__(
        self, rows: KeyRows, admin_secrets: Iterable[str | None] = (), *, wall: Callable[[], float] = time.time
    ) -> None:
        self._rows = rows
        self._wall = wall
        self._stamp: tuple[int, ...] | None = None
        self._file: tuple[int, ...] = ()  # the one that the keys were read from
        self._taken = False  # and is there no more
        self._reading = asyncio.Lock()  # one at a time: many callers may ask at once
        self._by_id: dict[str, KeyInfo] = {}
        self._by_digest: dict[bytes, KeyInfo] = {}
        self._admins: tuple[bytes, ...] = ()
        self.set_admin_secrets(admin_secrets)

    def set_admin_secrets(self, admin_secrets: Iterable[str | None]) -> None:
        """After a reload of the configuration."""
        self._admins = tuple(digest(secret) for secret in admin_secrets if secret)

    @property
    def required(self) -> bool:
        """Whether there is any key, so that requests must carry one. One that has expired opens nothing."""
        return bool(self._admins or self._by_digest)

    def verify(self, secret: str) -> KeyInfo | None:
        """Whose key this is; None while there is no key at all. Raises `Unauthorized`, `KeyExpired`. Never waits.

        What is compared are hashes: the time tells nothing of the keys.
        """
        if not self.required:
            return None
        found = digest(secret)
        if any([hmac.compare_digest(found, admin) for admin in self._admins]):  # all of them, always
            return KeyInfo(id=ADMIN_ID, name=ADMIN_ID, scopes=("admin",))
        info = self._by_digest.get(found)
        if info is None:
            raise Unauthorized(
                "Incorrect API key provided, or none: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
            )
        if self._is_over(info):
            raise KeyExpired(f"{info.label} has expired; ask this node's admin for another one")
        return info

    def info(self, key_id: str) -> KeyInfo | None:
        """The key with that id; None for "" and for keys that are gone."""
        return self._by_id.get(key_id)

    def has(self, key_id: str) -> bool:
        """Whether that key is still good; so are "" (no key was needed, or --api-key) and the admin's."""
        if key_id in ("", ADMIN_ID):
            return True
        info = self._by_id.get(key_id)
        return info is not None and not self._is_over(info)

    def _is_over(self, info: KeyInfo) -> bool:
        return info.expires is not None and info.expires <= self._wall()

    def list(self) -> tuple[KeyInfo, ...]:
        """Oldest first."""
        return tuple(self._by_id.values())

    async def refresh(self) -> None:
        """Read the keys if the file has changed. Raises `StoreError`.

        Keys that are gone because their file is, or because an empty one is in its place, stay until the node starts
        anew: nobody has revoked them, and without them the node would be open.
        """
        async with self._reading:
            stamp = self._rows.stamp()
            if stamp == self._stamp:
                return
            by_id, by_digest = {}, {}
            for row in await self._rows.keys():
                info = _info(row)
                by_id[info.id] = info
                by_digest[bytes(row["hash"])] = info
            self._stamp = stamp
            if self._by_id and not by_id and stamp[:1] != self._file:
                if not self._taken:
                    log.warning("the file of the API keys was taken away: they stay as they were while this node runs")
                self._taken = True
                return
            self._by_id, self._by_digest, self._file, self._taken = by_id, by_digest, stamp[:1], False

    async def watch(self) -> None:
        """Keep up with `exo apikey` of other processes; for a task of the daemon's.

        A database that cannot be read leaves the keys as they were; that is said once.
        """
        complained = False
        while True:
            try:
                await self.refresh()
                complained = False
            except StoreError as e:
                if not complained:
                    log.warning("API keys stay as they were: %s", e.message)
                complained = True
            await asyncio.sleep(WATCH_S)

    async def add(self, info: KeyInfo) -> tuple[KeyInfo, str]:
        """Make a key with these rights (its `id` and `created` are given here); the key itself is told only now."""
        await self.refresh()
        if info.name and any(one.name == info.name for one in self._by_id.values()):
            raise InvalidRequest(f"there is an API key named {info.name!r} already; revoke it or choose another name")
        secret = PREFIX + secrets.token_urlsafe(32)
        row = {name: getattr(info, name) for name in KeyInfo.__slots__}
        row |= {"id": f"key-{secrets.token_hex(4)}", "created": self._wall()}
        row |= {"models": list(info.models), "scopes": list(info.scopes)}
        await self._rows.add_key({**row, "hash": digest(secret)})
        await self.refresh()
        return self._by_id[row["id"]], secret

    async def revoke(self, name_or_id: str) -> KeyInfo:
        """Raises `NotFound`, which lists what there is."""
        await self.refresh()
        for info in self._by_id.values():
            if name_or_id in (info.id, info.name):
                await self._rows.remove_key(info.id)
                await self.refresh()
                return info
        there = ", ".join(info.name or info.id for info in self._by_id.values())
        raise NotFound(f"no API key {name_or_id[:80]!r}; there {f'are: {there}' if there else 'is none'}")


def _info(row: Mapping[str, Any]) -> KeyInfo:
    values = {name: row[name] for name in KeyInfo.__slots__}
    lists = {name: tuple(row[name]) for name in ("models", "scopes")}
    return KeyInfo(**{**values, **lists, "period": row["period"] or "month"})
