"""The environment as routing sees it: `.env` below the process's own variables, the documents' names made one.

What comes out (`RoutingConfig.environment`) holds keys: it is read, handed to the sidecar, and never shown.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from exo_node import values
from exo_node.routing.configuration.located import FileProblems, Problems
from exo_node.routing.configuration.references import References, Unresolved

# One setting each, under the names that documents and libraries know it by; the first that is set counts, the others
# get its value where they have none.
SAME: tuple[tuple[str, ...], ...] = (
    ("LITELLM_BASE_URL", "LITELLM_URL", "LITELLM_PROXY_API_BASE"),  # documents 001 and 003; LiteLLM's own
    ("LITELLM_API_KEY", "LITELLM_MASTER_KEY", "LITELLM_PROXY_API_KEY"),
    ("OLLAMA_API_BASE", "OLLAMA_BASE_URL"),  # LiteLLM's name; document 002's
    ("GEMINI_API_KEY", "GOOGLE_API_KEY"),  # documents 002 and 003
    ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY", "TOGETHER_AI_API_KEY"),  # LiteLLM's; document 003's
)
ADDRESSES = ("LITELLM_BASE_URL", "OLLAMA_API_BASE")
SWITCHES = ("USE_LITELLM", "CASCADE_ROUTING_ENABLED")


@dataclass(frozen=True, slots=True)
class EnvFile:
    """What a `.env` says, in order, with its lines."""

    name: str
    pairs: Mapping[str, str] = field(repr=False)
    lines: Mapping[str, int]


def read_env_file(path: Path, env: Mapping[str, str]) -> EnvFile:
    """Reads a `.env`; `${VAR}` in it is the process's variable or one above. Raises `FileProblems`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        raise FileProblems([f"{path}: cannot be read: {reason}"]) from e
    from dotenv.parser import parse_stream  # only who has a .env pays for it

    problems, pairs, lines = Problems(), dict[str, str](), dict[str, int]()
    for binding in parse_stream(io.StringIO(text)):
        line = binding.original.line + _blank_lines(binding.original.string)
        if binding.error:
            problems.add(f"{path}:{line}", "not NAME=value")
        elif binding.key is not None and binding.value is not None:
            refs = References({**pairs, **env}, lambda _: None)
            try:
                value = refs.resolve(binding.value) if "${" in binding.value else binding.value
            except Unresolved as e:
                problems.add(f"{path}:{line}", f"{binding.key}: {e}")
                continue
            pairs[binding.key], lines[binding.key] = value, line
    problems.raise_if_any()
    return EnvFile(str(path), pairs, lines)


def _blank_lines(text: str) -> int:
    return text[: len(text) - len(text.lstrip())].count("\n")


def merge(file: EnvFile | None, env: Mapping[str, str]) -> dict[str, str]:
    """`env` over the file; what is set to nothing is not set (in `env` it also hides the file's)."""
    merged = dict(file.pairs) if file else {}
    lay_over(merged, env)
    return {name: value for name, value in merged.items() if value}


def lay_over(environment: MutableMapping[str, str], given: Mapping[str, str]) -> None:
    """Puts `given` over `environment`, setting by setting: one that is given is not asked for under its other names."""
    for names in SAME:
        if any(given.get(name) for name in names):
            for name in names:
                environment.pop(name, None)
    environment.update(given)


def unify(environment: MutableMapping[str, str]) -> None:
    """Gives every name of a setting its value, and puts switches and addresses into one form.

    Raises `FileProblems` with one line per variable that is no switch or no address.
    """
    problems = Problems()
    for names in SAME:
        value = next((environment[name] for name in names if environment.get(name)), None)
        if value is not None:
            for name in names:
                environment.setdefault(name, value)
    for name in SWITCHES:
        if name in environment:
            try:
                environment[name] = "true" if values.switch(environment[name]) else "false"
            except ValueError:
                problems.add(name, "wants true or false")
    for name in ADDRESSES:
        if name in environment and not is_address(environment[name]):
            said = " or ".join(next(names for names in SAME if name in names))
            problems.add(said, "wants an address such as http://localhost:4000")
    problems.raise_if_any()


def is_address(text: str) -> bool:
    """http(s)://HOST[:PORT][/PATH]."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def find_env_file(given: Path | None, folder: Path) -> Path | None:
    """The file that was named (`FileProblems` where it is not there), else `.env` in `folder` where there is one."""
    if given is not None:
        if not given.is_file():
            raise FileProblems([f"--env-file {given}: no such file"])
        return given
    path = folder / ".env"
    return path if path.is_file() else None
