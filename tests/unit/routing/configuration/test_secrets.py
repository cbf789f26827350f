"""Secrets at rest."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest

from exo_node.errors import ConfigurationError
from exo_node.routing.configuration.located import parse
from exo_node.routing.configuration.secrets import SecretStore
from exo_node.routing.configuration.secrets_import import encrypt, import_file
from tests.unit.routing.config_files import DOCUMENTS, load

PLANTED = "sk-planted-0123456789"


def test_kept_encrypted_and_read_again(tmp_path: Path) -> None:
    """A secret survives on disk without being there in the clear; files are the owner's only."""
    store = SecretStore(tmp_path, {})
    assert store.names() == [] and store.get("azure") is None
    store.set("azure", PLANTED)
    store.set("b", "zwei")
    again = SecretStore(tmp_path, {})
    assert again.names() == ["azure", "b"]
    assert again.get("azure") == PLANTED
    for name in ("secrets.enc", "secrets.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert PLANTED not in (tmp_path / name).read_text()
    again.remove("azure")
    assert SecretStore(tmp_path, {}).names() == ["b"]
    with pytest.raises(ConfigurationError, match="no secret 'azure'; there are: b"):
        again.remove("azure")


def test_key_from_the_environment(tmp_path: Path) -> None:
    """EXO_SECRETS_KEY stands for the key file, which is then not made."""
    env = {"EXO_SECRETS_KEY": base64.urlsafe_b64encode(b"k" * 32).decode()}
    SecretStore(tmp_path, env).set("a", PLANTED)
    assert not (tmp_path / "secrets.key").exists()
    assert SecretStore(tmp_path, env).get("a") == PLANTED
    other = {"EXO_SECRETS_KEY": base64.urlsafe_b64encode(b"x" * 32).decode()}
    with pytest.raises(ConfigurationError, match="does not fit the key in EXO_SECRETS_KEY"):
        SecretStore(tmp_path, other).get("a")
    with pytest.raises(ConfigurationError, match="EXO_SECRETS_KEY: wants 32 bytes"):
        SecretStore(tmp_path, {"EXO_SECRETS_KEY": "short"}).get("a")


def test_damage(tmp_path: Path) -> None:
    """A lost key, a loose one, a damaged file, a value under another name: each says what is wrong, none a value."""
    store = SecretStore(tmp_path, {})
    store.set("a", PLANTED)
    table = json.loads(store.path.read_text())
    table["secrets"]["b"] = table["secrets"]["a"]
    table["secrets"]["c"] = "enc:v1:AAAA"
    table["secrets"]["d"] = "enc:v9:AAAA"
    store.path.write_text(json.dumps(table))
    fresh = SecretStore(tmp_path, {})
    for name, message in (("b", "or this name"), ("c", "c: the encrypted value"), ("d", "begins with enc:v1:")):
        with pytest.raises(ConfigurationError, match=message):
            fresh.get(name)
    store.key_path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="others may read it; chmod 600"):
        SecretStore(tmp_path, {}).get("a")
    store.key_path.unlink()
    with pytest.raises(ConfigurationError, match="the key of the encrypted secrets is missing"):
        SecretStore(tmp_path, {}).get("a")
    store.path.write_text("{}")
    with pytest.raises(ConfigurationError, match="not a file of secrets"):
        SecretStore(tmp_path, {}).names()


@pytest.mark.parametrize(("name", "value"), [("1a", "x"), ("a b", "x"), ("", "x"), ("a", "")])
def test_what_is_not_a_secret(tmp_path: Path, name: str, value: str) -> None:
    """Names that a {placeholder} could not hold, and empty values, are refused."""
    with pytest.raises(ConfigurationError):
        SecretStore(tmp_path, {}).set(name, value)


def test_import_encrypts_in_place(tmp_path: Path) -> None:
    """The plain secrets of document 004's record are encrypted where they stand; nothing else changes, and it works."""
    path = tmp_path / "record.json"
    original = (DOCUMENTS / "004-router-mode.json").read_text()
    path.write_text(original)
    path.chmod(0o640)
    store = SecretStore(tmp_path / "home", {})
    assert import_file(path, store) == 2
    text = path.read_text()
    assert "your-azure-key" not in text and "your-openai-key" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [a == b for a, b in zip(original.splitlines(), text.splitlines(), strict=True)].count(False) == 2
    assert import_file(path, store) == 0
    azure, openai, *_ = load(tmp_path, path).deployments
    assert azure.params["api_key"] == "your-azure-key"
    assert openai.params["api_key"] == "your-openai-key"


def test_import_of_yaml(tmp_path: Path) -> None:
    """YAML's ways of writing a text are all replaced; variables and what is encrypted already stay."""
    store = SecretStore(tmp_path, {})
    text = (
        "- system_name: a\n  secrets_encrypted:\n    plain: abc # why\n    block: |\n      line one\n      line two\n"
        "    quoted: 'x y'\n    variable: ${KEY}\n    none: null\n  name: after\n"
    )
    changed, count = encrypt(parse("f.yaml", text), store)
    assert count == 3
    secrets = parse("f.yaml", changed).value[0]["secrets_encrypted"]
    assert store.open("block", secrets["block"]) == "line one\nline two\n"
    assert store.open("plain", secrets["plain"]) == "abc"
    assert secrets["variable"] == "${KEY}"
    assert "# why" in changed and parse("f.yaml", changed).value[0]["name"] == "after"
    with pytest.raises(ConfigurationError, match="one value under two names"):
        encrypt(parse("f.yaml", "secrets_encrypted:\n  a: &x abc\n  b: *x\n"), store)
