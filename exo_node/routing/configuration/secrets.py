"""Secrets at rest: `$EXO_HOME/secrets.enc`, and single values that a configuration file holds encrypted.

Each value is AES-256-GCM under one key, with the secret's name as associated data (a value moved to another name does
not open): `enc:v1:` + base64url(12 bytes nonce + ciphertext + 16 bytes tag). Names are in the clear. The key is 32
random bytes, base64url, in `$EXO_HOME/secrets.key` (0600) or in `EXO_SECRETS_KEY`. Raises `ConfigurationError`; no
message ever holds a value.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from exo_node.errors import ConfigurationError
from exo_node.whole_file import create_file, replace_file

PREFIX = "enc:v1:"
KEY_VARIABLE = "EXO_SECRETS_KEY"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_NONCE = 12


class SecretStore:
    """The encrypted secrets of this machine. Nothing is read or made before it is asked for."""

    def __init__(self, home: Path, env: Mapping[str, str]) -> None:
        self.path = home / "secrets.enc"
        self.key_path = home / "secrets.key"
        self._env = env
        self._key: bytes | None = None
        self._values: dict[str, str] | None = None

    def names(self) -> list[str]:
        """Needs no key."""
        return sorted(self._read())

    def get(self, name: str) -> str | None:
        """None where there is no such secret."""
        sealed = self._read().get(name)
        return None if sealed is None else self.open(name, sealed)

    def set(self, name: str, value: str) -> None:
        if NAME.fullmatch(name) is None:
            raise ConfigurationError(f"{name!r} is no name of a secret: letters, digits, _ . - and no digit first")
        if not value:
            raise ConfigurationError(f"secret {name}: the value is empty; to delete it: exo secrets remove {name}")
        values = dict(self._read())
        values[name] = self.seal(name, value)
        self._write(values)

    def remove(self, name: str) -> None:
        values = dict(self._read())
        if values.pop(name, None) is None:
            raise ConfigurationError(f"no secret {name!r}; there are: {', '.join(sorted(values)) or 'none'}")
        self._write(values)

    def seal(self, name: str, value: str) -> str:
        """Encrypts; makes the key file when there is no key yet."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = secrets.token_bytes(_NONCE)
        sealed = AESGCM(self._load_key(create=True)).encrypt(nonce, value.encode(), name.encode())
        return PREFIX + base64.urlsafe_b64encode(nonce + sealed).decode()

    def open(self, name: str, sealed: str) -> str:
        """Decrypts what `seal` made under this name."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if not sealed.startswith(PREFIX):
            raise ConfigurationError(f"secret {name}: an encrypted value begins with {PREFIX}")
        try:
            raw = base64.urlsafe_b64decode(sealed.removeprefix(PREFIX))
            return AESGCM(self._load_key(create=False)).decrypt(raw[:_NONCE], raw[_NONCE:], name.encode()).decode()
        except (binascii.Error, ValueError) as e:
            raise ConfigurationError(f"secret {name}: the encrypted value is damaged; set it again") from e
        except InvalidTag as e:
            raise ConfigurationError(
                f"secret {name}: the encrypted value does not fit the key in {self._key_source()} or this name"
            ) from e

    def _key_source(self) -> str:
        return KEY_VARIABLE if self._env.get(KEY_VARIABLE) else str(self.key_path)

    def _load_key(self, *, create: bool) -> bytes:
        if self._key is None:
            self._key = self._find_key(create)
        return self._key

    def _find_key(self, create: bool) -> bytes:
        text = self._env.get(KEY_VARIABLE)
        if not text:
            try:
                text = self.key_path.read_text(encoding="ascii")
                loose = self.key_path.stat().st_mode & 0o077
            except FileNotFoundError:
                if not create:
                    raise ConfigurationError(
                        f"{self.key_path}: the key of the encrypted secrets is missing: bring it back, set "
                        f"{KEY_VARIABLE}, or remove {self.path} and set the secrets again"
                    ) from None
                return self._create_key()
            except (OSError, UnicodeDecodeError) as e:
                raise ConfigurationError(f"{self.key_path}: the key of the secrets cannot be read") from e
            if loose:
                raise ConfigurationError(f"{self.key_path}: others may read it; chmod 600 {self.key_path}")
        try:
            key = base64.urlsafe_b64decode(text.strip())
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != 32:
            raise ConfigurationError(f"{self._key_source()}: wants 32 bytes in base64url (44 characters)")
        return key

    def _create_key(self) -> bytes:
        key = secrets.token_bytes(32)
        try:
            self.key_path.parent.mkdir(parents=True, exist_ok=True)
            create_file(self.key_path, base64.urlsafe_b64encode(key) + b"\n")
        except FileExistsError:  # another process was faster; its key counts
            return self._find_key(create=False)
        except OSError as e:
            raise ConfigurationError(f"{self.key_path}: cannot be written: {e.strerror}") from e
        return key

    def _read(self) -> dict[str, str]:
        if self._values is None:
            try:
                table = json.loads(self.path.read_text(encoding="utf-8"))
                values = table["secrets"]
                if table["version"] != 1 or not all(isinstance(v, str) for v in values.values()):
                    raise ValueError("version")
            except FileNotFoundError:
                values = {}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
                raise ConfigurationError(f"{self.path}: not a file of secrets that this version writes") from e
            self._values = dict(values)
        return self._values

    def _write(self, values: dict[str, str]) -> None:
        text = json.dumps({"version": 1, "secrets": dict(sorted(values.items()))}, indent=1) + "\n"
        write_private(self.path, text, 0o600)
        self._values = values


def write_private(path: Path, text: str, mode: int) -> None:
    """Replaces the file in one step: a reader sees the old or the new one. Raises `ConfigurationError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode(), mode)
    except OSError as e:
        raise ConfigurationError(f"{path}: cannot be written: {e.strerror}") from e
