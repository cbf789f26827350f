"""Ollama's `options`, `format` and `keep_alive` in OpenAI's words. Pure.

Meanings: https://docs.ollama.com/api and https://docs.ollama.com/modelfile#valid-parameters-and-values . What only says
how Ollama's own runner uses its machine (num_ctx, num_gpu, num_thread, ...) is accepted and changes nothing: the ring
decides that itself. Options that nobody knows are ignored, as Ollama does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from exo_node.api.fields import Fields, bad, checked_object

INT64 = 2**63
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
# Other ways of drawing a token, and the values with which they are off.
_OFF: Mapping[str, tuple[float, ...]] = {"mirostat": (0,), "tfs_z": (1,), "typical_p": (0, 1)}
_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


def generation(value: Any, no_limit: int | None = None) -> dict[str, Any]:
    """The fields of an OpenAI body that `options` asks for; neutral values of those that OpenAI does not know are left
    out. `no_limit` is the `max_tokens` of answers without a limit of their own. Raises `InvalidRequest`."""
    given = {} if value is None else checked_object(value, "options")
    fields = Fields({f"options.{name}": _whole(item) for name, item in given.items()})
    for name, off in _OFF.items():
        amount = fields.number(f"options.{name}", -1e9, 1e9)
        if amount is not None and amount not in off:
            raise bad(f"options.{name}", f"other than {off[-1]} is not supported", code="unsupported_parameter")
    limit = fields.integer("options.num_predict", -INT64, INT64 - 1)
    found: dict[str, Any] = {
        "temperature": fields.number("options.temperature", 0, 2),
        "top_p": fields.number("options.top_p", 0, 1),
        "top_k": fields.integer("options.top_k", -INT64, INT64 - 1),
        "min_p": fields.number("options.min_p", 0, 1),
        "repetition_penalty": fields.number("options.repeat_penalty", 0, 1e6),
        "presence_penalty": fields.number("options.presence_penalty", -2, 2),
        "frequency_penalty": fields.number("options.frequency_penalty", -2, 2),
        "seed": fields.integer("options.seed", -INT64, INT64 - 1),
        "stop": _stop(fields),
        "max_tokens": limit if limit is not None and limit > 0 else no_limit,  # -1: no end, -2: until it is full
    }
    if found["top_k"] is not None and found["top_k"] <= 0:
        found["top_k"] = None
    for name, neutral in (("min_p", 0), ("repetition_penalty", 1)):
        found[name] = None if found[name] == neutral else found[name]
    _only_whole_context(fields, found)
    return {name: item for name, item in found.items() if item is not None}


def response_format(value: Any) -> dict[str, Any] | None:
    """`format`: "" (none), "json", or a JSON schema."""
    if value is None or value == "":
        return None
    if value == "json":
        return {"type": "json_object"}
    if isinstance(value, dict):
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}
    raise bad("format", 'must be "json" or a JSON schema')


def keep_alive(value: Any) -> float | None:
    """Seconds for which the model stays loaded after the answer: 0 not at all, infinite for a negative one, None where
    nothing is said. A number is seconds; a text is a duration as Go writes it ("5m", "1h30m"), or a number."""
    if value is None:
        return None
    if type(value) in (int, float) and math.isfinite(value):
        return math.inf if value < 0 else float(value)
    if isinstance(value, str):
        text = value.strip()
        digits = text.removeprefix("-")
        seconds = _number(digits)
        if seconds is None and digits and _DURATION.sub("", digits) == "":
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(digits))
        if seconds is not None:
            return math.inf if text != digits and seconds else seconds
    raise bad("keep_alive", 'must be seconds or a duration like "5m"')


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,15}(\.\d{1,15})?", text) else None


def _whole(value: Any) -> Any:
    """5.0 is a whole number to Ollama."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < INT64 else value


def _stop(fields: Fields) -> list[str] | None:
    name = "options.stop"
    stops = (fields.text(name),) if isinstance(fields.get(name), str) else fields.texts(name)
    return [stop for stop in stops if stop] or None


def _only_whole_context(fields: Fields, found: dict[str, Any]) -> None:
    """Penalties look at the whole context here (`repeat_last_n` -1); with 0 they look at nothing, so they go."""
    last = fields.integer("options.repeat_last_n", -1)
    newline = fields.boolean("options.penalize_newline")
    if last == 0:
        found.update(dict.fromkeys(_PENALTIES))
    if not any(found[name] for name in _PENALTIES):
        return
    if last not in (None, -1):
        problem = "counts for penalties only as -1 (the whole context) or 0 (none)"
        raise bad("options.repeat_last_n", problem, code="unsupported_parameter")
    if newline is False:
        raise bad("options.penalize_newline", "false is not supported with penalties", code="unsupported_parameter")
