"""What a text in a configuration file stands for: `${VAR}`, `os.environ/VAR`, `{secret}` and `~` (pure).

`${VAR}` may stand anywhere in a text, with a value for when it is not set as `${VAR:-value}`; `$${VAR}` is a literal
`${VAR}`. `os.environ/VAR` is a whole text. `{secret}` is a whole text, or a part of one where `embedded` says so; there
an unknown name is left alone unless `strict`. A leading `~/` is the home folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")
_LITELLM = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
_SECRET = re.compile(r"(?<![$\w{])\{([A-Za-z_][A-Za-z0-9_.-]*)\}(?!\})")


class Unresolved(ValueError):
    """A variable or a secret that is not there; the message names it."""

    def __init__(self, kind: Literal["variable", "secret", "syntax"], name: str) -> None:
        super().__init__(
            {
                "variable": f"the variable {name} is not set",
                "secret": f"there is no secret {name!r}: exo secrets set {name} (or secrets_encrypted of the record)",
                "syntax": "${ is not followed by a name and }; a literal one is written $${",
            }[kind]
        )
        self.kind, self.name = kind, name


@dataclass(frozen=True, slots=True)
class References:
    """`env`: the environment with `.env`; `secret`: value by name, None where there is none."""

    env: Mapping[str, str] = field(repr=False)
    secret: Callable[[str], str | None] = field(repr=False)

    def resolve(self, text: str, *, embedded: bool = False, strict: bool = False) -> str:
        """Raises `Unresolved`."""
        if (whole := _LITELLM.fullmatch(text)) is not None:
            return self._variable(whole[1], None)
        if (whole := _SECRET.fullmatch(text)) is not None:
            return self._secret(whole[1])
        if embedded and "{" in text:
            text = _SECRET.sub(lambda found: self._inside(found, strict), text)
        if "${" in text:
            text = _VARIABLE.sub(self._replace, text)
        return self._home(text)

    def _replace(self, found: re.Match[str]) -> str:
        if found[0] == "$${":
            return "${"
        if found[1] is None:
            raise Unresolved("syntax", "")
        return self._variable(found[1], found[2])

    def _variable(self, name: str, otherwise: str | None) -> str:
        value = self.env.get(name) or otherwise  # set but empty is how shells say "not set"
        if not value:
            raise Unresolved("variable", name)
        return value

    def _secret(self, name: str) -> str:
        value = self.secret(name)
        if value is None:
            raise Unresolved("secret", name)
        return value

    def _inside(self, found: re.Match[str], strict: bool) -> str:
        value = self.secret(found[1])
        if value is None:
            if strict:
                raise Unresolved("secret", found[1])
            return found[0]
        return value.replace("${", "$${")  # a secret is never looked into

    def _home(self, text: str) -> str:
        home = self.env.get("HOME")
        return home.rstrip("/") + text[1:] if home and text.startswith("~/") else text
