"""Whether a cheap backend's answer is good enough, or the next one of a cascade must be asked."""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from exo_node.errors import ConfigurationError
from exo_node.routing.adapter.ports import Check
from exo_node.routing.call import Call
from exo_node.routing.callbacks.callbacks import described, import_function
from exo_node.routing.masking import Masker, secrets_of_environment

log = logging.getLogger("exo.routing")

# A mean of -1.0 is a perplexity of 2.7 a token: small models that answer well stay above it, lost ones fall below.
MIN_MEAN_LOGPROB = -1.0
REFUSAL_WITHIN = 200  # characters from the start: later it is more likely a quotation
_REFUSES = re.compile(
    r"\b(i'?m sorry,? but|i (can(no|')t|am unable to|am not able to|won'?t be able to) "
    r"(help|assist|answer|provide|do|fulfil)"
    r"|as an ai( language model)?,? i|i do(n'?t| not) have (access|the ability|information))",
    re.IGNORECASE,
)


def shortcoming(call: Call, answer: Mapping[str, Any], check: Check | None = None) -> str:
    """Why `answer` is not good enough: refusal, empty, invalid_json, low_logprob, the user's reason; "" when it is."""
    choices = answer.get("choices") or ()
    if not choices:
        return "empty"
    for choice in choices:
        message = choice.get("message") or {}
        text = message.get("content") or choice.get("text") or ""
        if message.get("refusal") or choice.get("finish_reason") == "content_filter":
            return "refusal"
        if message.get("tool_calls"):
            continue
        if not isinstance(text, str) or not text.strip():
            return "empty"
        if _REFUSES.search(text.replace("\u2019", "'")[:REFUSAL_WITHIN]):
            return "refusal"
        if _wants_json(call) and not _is_json(text):
            return "invalid_json"
        if (mean := _mean_logprob(choice.get("logprobs"))) is not None and mean < MIN_MEAN_LOGPROB:
            return "low_logprob"
    return (check(call, dict(answer)) or "") if check is not None else ""


def own_check(name: str, environment: Mapping[str, str] = MappingProxyType({})) -> Check:
    """The user's function `module:function`, called with the call and the answer: None, or why it is not good enough.

    One that raises counts as such, and is logged without the secrets of `environment`; the last backend's answer is not
    checked, so there is one all the same. Raises `ConfigurationError` for a name that is no plain function.
    """
    function = import_function(name, "cascade_check")
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"cascade_check {name!r} is async; it must answer at once")

    mask = Masker(secrets_of_environment(environment))

    def check(call: Call, answer: dict[str, Any]) -> str | None:
        try:
            said = function(call, answer)
        except Exception as error:  # foreign code
            log.warning("cascade_check %s raised %s", name, described(error, mask))
            return f"{name} raised {type(error).__name__}"
        return None if not said else str(said)[:200]

    return check


def _wants_json(call: Call) -> bool:
    wanted = call.body.get("response_format")
    return isinstance(wanted, Mapping) and wanted.get("type") in ("json_object", "json_schema")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _mean_logprob(logprobs: Any) -> float | None:
    if not isinstance(logprobs, Mapping):
        return None
    if isinstance(logprobs.get("content"), list):
        values = [token.get("logprob") for token in logprobs["content"]]
    else:
        values = list(logprobs.get("token_logprobs") or ())
    numbers = [value for value in values if isinstance(value, int | float)]
    return sum(numbers) / len(numbers) if numbers else None
