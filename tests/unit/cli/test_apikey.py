"""`exo apikey`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from exo_node.cli.apikey import expiry
from exo_node.cli.main import dispatch
from exo_node.errors import ConfigurationError
from exo_node.limits.api_keys import ApiKeys, KeyInfo
from exo_node.store import Store, store_path


def test_a_key_is_made_shown_and_revoked(exo_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The key goes to standard output once; list shows its rights and not the key; a revoked one is gone."""
    words = [
        "--name",
        "ci",
        "--rpm",
        "5",
        "--tpm",
        "100",
        "--user-rpm",
        "2",
        "--budget",
        "1.5/day",
        "--models",
        "gpt-*,claude",
        "--admin",
    ]
    assert dispatch(["apikey", "add", *words]) == 0
    captured = capsys.readouterr()
    secret = captured.out.strip()
    assert secret.startswith("sk-exo-") and "this is the first" in captured.err

    async def verified() -> KeyInfo | None:
        store = Store(store_path(exo_home))
        keys = ApiKeys(store)
        await keys.refresh()
        store.close()
        return keys.verify(secret)

    info = asyncio.run(verified())
    assert info is not None and info.admin and info.models == ("gpt-*", "claude")
    assert (info.rpm, info.tpm, info.user_rpm, info.budget, info.period) == (5, 100, 2, 1.5, "day")
    assert dispatch(["apikey", "list"]) == 0
    out = capsys.readouterr().out
    assert "ci" in out and "admin, rpm 5, tpm 100, user-rpm 2, 1.5 USD/day, models gpt-*,claude" in out
    assert secret not in out
    assert dispatch(["apikey", "revoke", "ci"]) == 0
    assert dispatch(["apikey", "list"]) == 0
    assert "no API keys" in capsys.readouterr().out


def test_scopes_and_expiry(exo_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key has the scopes that are named, `use` when none is, and the list shows them and until when it is good."""
    assert dispatch(["apikey", "add", "--name", "a", "--scope", "use,read", "--expires", "2099-06-30"]) == 0
    assert dispatch(["apikey", "add", "--name", "b", "--concurrency", "3"]) == 0
    capsys.readouterr()
    assert dispatch(["apikey", "list"]) == 0
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert "use, read" in first and ("2099-06-30" in first or "2099-07-01" in first)  # the local time's day
    assert "never" in second and second.endswith("use, concurrency 3")


NOW = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("12h", NOW + 12 * 3600),
        ("30d", NOW + 30 * 86400),
        ("2w", NOW + 14 * 86400),
        ("2026-11-21", datetime(2026, 11, 22, tzinfo=UTC).timestamp()),  # with that day
        ("2026-11-21T14:00+01:00", NOW + 3600),
    ],
)
def test_expiry(text: str, at: float) -> None:
    """Ages, days and times."""
    assert expiry(text, NOW) == at


@pytest.mark.parametrize("text", ["", "soon", "30", "0d", "-1d", "2026-11-20", "2026-13-01", "99999999d", "1e3d"])
def test_no_expiry(text: str) -> None:
    """What is no time, or over, is refused."""
    with pytest.raises(ConfigurationError, match="--expires"):
        expiry(text, NOW)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["add", "--scope", "root"], "--scope: wants one of use, read, admin"),
        (["add", "--expires", "soon"], "--expires: wants 12h, 30d"),
        (["list", "--scope", "use"], "--scope belongs to"),
        (["add", "--rpm", "many"], "--rpm: wants a whole number"),
        (["add", "--rpm", "0"], "--rpm: wants a whole number of at least 1"),
        (["add", "--user-tpm", "0"], "--user-tpm: wants a whole number of at least 1"),
        (["add", "--budget", "5/week"], "per day or per month"),
        (["add", "--budget", "much"], "--budget: wants a number"),
        (["add", "--models", ","], "at least one model"),
        (["add", "ci"], "takes no KEY"),
        (["revoke"], "revoke KEY"),
        (["list", "--rpm", "5"], "--rpm belongs to exo apikey add"),
        (["list", "--admin"], "--admin belongs to"),
        (["make"], "add"),
        ([], "exo apikey --help"),
    ],
)
def test_mistakes_are_named(argv: list[str], words: str, exo_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong line is one line of complaint, and nothing is made."""
    assert dispatch(["apikey", *argv]) == 2
    assert words in capsys.readouterr().err
    assert not store_path(exo_home).exists()


def test_an_unknown_key_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Revoking what is not there fails; a name is taken once."""
    assert dispatch(["apikey", "revoke", "x"]) == 1
    assert "no API key 'x'; there is none" in capsys.readouterr().err
    assert dispatch(["apikey", "add", "--name", "x"]) == 0
    assert dispatch(["apikey", "add", "--name", "x"]) == 1
    assert "named 'x' already" in capsys.readouterr().err
