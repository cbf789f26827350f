"""API keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from exo_node.errors import InvalidRequest, KeyExpired, ModelNotAllowed, NotFound, Unauthorized
from exo_node.limits.api_keys import ApiKeys, KeyInfo
from exo_node.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "keys.db")
    yield store
    store.close()


async def test_without_any_key_everyone_is_nobody(store: Store) -> None:
    """Where no key was ever made nothing is required, and looking makes no file."""
    keys = ApiKeys(store)
    await keys.refresh()
    assert not keys.required
    assert keys.verify("anything") is None
    assert not store.path.exists()


async def test_a_key_is_told_once_and_kept_as_a_hash(store: Store) -> None:
    """The key opens with its rights; the file does not hold it; others are refused."""
    keys = ApiKeys(store)
    info, secret = await keys.add(KeyInfo(id="", name="ci", rpm=5, budget=2.0, period="day", models=("gpt-*",)))
    assert keys.verify(secret) == info
    assert (info.name, info.rpm, info.budget, info.period, info.models) == ("ci", 5, 2.0, "day", ("gpt-*",))
    assert keys.info(info.id) == info
    for wrong in ("", "sk-exo-", secret[:-1], secret + "x", secret.upper(), "\ud800"):
        with pytest.raises(Unauthorized):
            keys.verify(wrong)
    await store.flush()
    held = b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    assert secret.encode() not in held and secret.removeprefix("sk-exo-").encode() not in held


async def test_an_expired_key_is_refused_and_opens_nothing(store: Store) -> None:
    """From its time on a key is refused as expired, for batches too; a node whose only key it is stays closed.
    (Issue 6, 5: expiry.)"""
    now = 1000.0
    keys = ApiKeys(store, wall=lambda: now)
    info, secret = await keys.add(KeyInfo(id="", name="guest", scopes=("read",), expires=1060.0))
    assert keys.verify(secret) == info and keys.has(info.id)
    now = 1060.0
    with pytest.raises(KeyExpired, match="'guest' has expired") as caught:
        keys.verify(secret)
    assert (caught.value.status, caught.value.code) == (401, "key_expired")
    assert not keys.has(info.id) and keys.required
    with pytest.raises(Unauthorized):
        keys.verify("")


async def test_another_process_changes_the_keys(store: Store) -> None:
    """Keys that another store on the same file adds or revokes count after the next look."""
    keys, elsewhere = ApiKeys(store), Store(store.path)
    other = ApiKeys(elsewhere)
    await keys.refresh()
    info, secret = await other.add(KeyInfo(id="", name="x"))
    await keys.refresh()
    assert keys.verify(secret) == info
    _, second = await other.add(KeyInfo(id=""))
    assert (await other.revoke("x")).id == info.id
    await keys.refresh()
    with pytest.raises(Unauthorized):
        keys.verify(secret)
    assert keys.verify(second) is not None
    elsewhere.close()


async def test_admin_secrets(store: Store) -> None:
    """--api-key and the master key are admin keys, also without any key in the store; a reload exchanges them."""
    keys = ApiKeys(store, ["boss", None, ""])
    assert keys.required
    found = keys.verify("boss")
    assert found is not None and found.admin
    with pytest.raises(Unauthorized):
        keys.verify("")
    keys.set_admin_secrets([])
    assert keys.verify("boss") is None


async def test_names_are_unique_and_revoking_says_what_there_is(store: Store) -> None:
    """A second key of a name is refused; revoking an unknown one lists the others."""
    keys = ApiKeys(store)
    with pytest.raises(NotFound, match="there is none"):
        await keys.revoke("x")
    await keys.add(KeyInfo(id="", name="ci"))
    with pytest.raises(InvalidRequest, match="'ci'"):
        await keys.add(KeyInfo(id="", name="ci"))
    with pytest.raises(NotFound, match="there are: ci"):
        await keys.revoke("x")
    assert [one.name for one in keys.list()] == ["ci"]


def test_models_by_pattern() -> None:
    """A key with models may ask for those names only; one without for all."""
    assert KeyInfo(id="k").allows("anything")
    key = KeyInfo(id="k", models=("gpt-4o", "claude-*"))
    assert key.allows("gpt-4o") and key.allows("claude-3") and not key.allows("gpt-4o-mini")
    with pytest.raises(ModelNotAllowed, match=r"'k'.*gpt-4o, claude-"):
        key.check_model("llama")


async def test_a_damaged_file_does_not_end_the_watch(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A database that cannot be read leaves the admin key working and the watch running; it is said once."""
    store.path.write_bytes(b"no database" * 100)
    keys = ApiKeys(store, ["boss"])
    watch = asyncio.create_task(keys.watch())
    while not caplog.records:  # noqa: ASYNC110 (the watch tells nobody)
        await asyncio.sleep(0.01)
    assert not watch.done() and keys.verify("boss") is not None
    watch.cancel()
    await asyncio.wait({watch})
    assert len(caplog.records) == 1 and "stay as they were" in caplog.text


@pytest.mark.parametrize("how", ["moved", "deleted"])
async def test_keys_outlive_their_file(how: str, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is taken away, or replaced by one without keys (maybe of the same inode), opens no node that runs,
    and is said once; keys of a file that has some count, and the last one may be revoked."""
    keys = ApiKeys(store)
    _, secret = await keys.add(KeyInfo(id="", name="a"))
    store.path.rename(store.path.with_name("away.db")) if how == "moved" else store.path.unlink()
    for suffix in ("-wal", "-shm"):
        store.path.with_name(store.path.name + suffix).unlink(missing_ok=True)
    await keys.refresh()
    assert keys.required and keys.verify(secret) is not None
    for number in range(3):  # makes a new file, and changes it
        store.save_profile("n", {str(number): 1})
        await store.flush()
        await keys.refresh()
        assert keys.required and keys.verify(secret) is not None
    assert caplog.text.count("was taken away") == 1
    with pytest.raises(Unauthorized):
        keys.verify("other")
    other = ApiKeys(Store(store.path))
    info, fresh = await other.add(KeyInfo(id="", name="b"))
    await keys.refresh()
    assert keys.verify(fresh) == info
    with pytest.raises(Unauthorized):
        keys.verify(secret)
    await keys.revoke("b")
    assert not keys.required
