"""Fields that would change the meaning and are not done are refused; harmless ones are not."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.api.semantics import refuse_unsupported
from exo_node.errors import InvalidRequest


@pytest.mark.parametrize(
    "body",
    [
        {"suffix": ""},
        {"min_tokens": 0},
        {"include_stop_str_in_output": False},
        {"skip_special_tokens": True},
        {"verbosity": "medium"},
        {"store": True},
        {"unknown": [1]},
    ],
)
def test_neutral_values_pass(body: dict[str, Any]) -> None:
    """A value that asks for what is done anyway is no reason to refuse."""
    refuse_unsupported(body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", {}),
        ("min_tokens", False),
        ("modalities", ["audio"]),
        ("repeat_penalty", 1.2),
        ("include_stop_str_in_output", True),
        ("skip_special_tokens", False),
    ],
)
def test_meaning_is_never_dropped(field: str, value: Any) -> None:
    """Any other value is a 400 that names the field (0 is not false)."""
    with pytest.raises(InvalidRequest) as caught:
        refuse_unsupported({field: value})
    assert (caught.value.param, caught.value.code) == (field, "unsupported_parameter")
