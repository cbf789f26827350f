"""The lines of a batch's files: requests in, answers and errors out. Pure.

Shapes: https://platform.openai.com/docs/api-reference/batch/request-input , .../request-output .
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exo_node.api.fields import kind, parse_object
from exo_node.errors import ExoError

MAX_LINES = 50_000  # OpenAI's
MAX_ERRORS = 100  # that are told of one file
MAX_CUSTOM_ID = 512  # characters; a bound on memory


@dataclass(frozen=True, slots=True)
class Line:
    custom_id: str
    body: dict[str, Any]


@dataclass(eq=False)
class LineError(Exception):
    """What is wrong with a line; `line` counts from 1, None: with the file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def shown(self) -> dict[str, Any]:
        return {"code": self.code, "line": self.line, "message": self.message, "param": self.param}


@dataclass(frozen=True, slots=True)
class Checked:
    """`total` requests, or what is wrong with the file."""

    total: int
    errors: tuple[LineError, ...]


def read_line(raw: bytes, endpoint: str) -> Line:
    """Raises `LineError`."""
    try:
        said = parse_object(raw)
    except ExoError as e:
        problem = e.message.replace("the request body", "the line")
        raise LineError("invalid_json_line", problem) from e
    custom_id, body = said.get("custom_id"), said.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise LineError("missing_required_parameter", "custom_id: is required, a string", "custom_id")
    if len(custom_id) > MAX_CUSTOM_ID:
        raise LineError("invalid_value", f"custom_id: has more than {MAX_CUSTOM_ID} characters", "custom_id")
    if said.get("method") != "POST":
        raise LineError("invalid_method", f"method: must be POST, got {_short(said.get('method'))}", "method")
    if said.get("url") != endpoint:
        problem = f"url: must be the batch's endpoint {endpoint}, got {_short(said.get('url'))}"
        raise LineError("mismatched_url", problem, "url")
    if not isinstance(body, dict):
        raise LineError("invalid_type", f"body: must be an object, not {kind(body)}", "body")
    for name in ("stream", "background"):
        if body.get(name):
            raise LineError("unsupported_parameter", f"body.{name}: is not done in a batch", f"body.{name}")
    return Line(custom_id, body)


def check(lines: Iterable[bytes], endpoint: str) -> Checked:
    """Whether every line is a request to `endpoint` with a custom_id of its own. Empty lines are skipped."""
    seen: set[str] = set()
    errors: list[LineError] = []
    total = 0
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        total += 1
        if total > MAX_LINES:
            errors.append(LineError("too_many_requests", f"a batch takes at most {MAX_LINES} requests"))
            break
        try:
            line = read_line(raw, endpoint)
        except LineError as e:
            errors.append(LineError(e.code, e.message, e.param, number))
        else:
            if line.custom_id in seen:
                problem = f"custom_id: {_short(line.custom_id)} is another line's too"
                errors.append(LineError("duplicate_custom_id", problem, "custom_id", number))
            seen.add(line.custom_id)
        if len(errors) >= MAX_ERRORS:
            break
    if not total:
        errors.append(LineError("empty_file", "the input file has no requests"))
    return Checked(total, tuple(errors))


def answered(ident: str, custom_id: str, status: int, request_id: str, body: Mapping[str, Any]) -> bytes:
    """A line of the output file, or (status not 200) of the error file."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _line({"id": ident, "custom_id": custom_id, "response": response, "error": None})


def unanswered(ident: str, custom_id: str, code: str, message: str) -> bytes:
    """A line of the error file for a request that nobody was asked."""
    return _line({"id": ident, "custom_id": custom_id, "response": None, "error": {"code": code, "message": message}})


def custom_ids(lines: Iterable[bytes]) -> set[str]:
    """Whose answers an output or error file has."""
    return {json.loads(line)["custom_id"] for line in lines}


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _short(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)[:60]
