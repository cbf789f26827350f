"""Options, format and keep_alive of Ollama's in OpenAI's words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from exo_node.api.dialects.ollama_options import generation, keep_alive, response_format
from exo_node.errors import InvalidRequest


def test_what_is_drawn_how() -> None:
    """Sampling options go under OpenAI's names; 5.0 is a whole number; empty stops are none."""
    options = {
        "temperature": 0.5, "top_k": 40.0, "top_p": 0.9, "min_p": 0.05, "repeat_penalty": 1.1, "presence_penalty": 1,
        "frequency_penalty": -1, "seed": 7, "num_predict": 12, "stop": ["a", ""],
    }  # fmt: skip
    assert generation(options) == {
        "temperature": 0.5, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1, "presence_penalty": 1,
        "frequency_penalty": -1, "seed": 7, "max_tokens": 12, "stop": ["a"],
    }  # fmt: skip
    assert generation({"stop": "a"}) == {"stop": ["a"]}


@pytest.mark.parametrize(
    "options",
    [
        None,
        {},
        {"temperature": None, "num_predict": -1, "stop": [], "seed": None},
        {
            "num_predict": -2,
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "mirostat": 0,
            "tfs_z": 1.0,
            "typical_p": 1,
        },
        {"num_ctx": 4096, "num_gpu": 1, "num_thread": 8, "numa": False, "use_mmap": True, "num_keep": 4, "main_gpu": 0},
        {"mirostat_tau": 5.0, "mirostat_eta": 0.1, "repeat_last_n": 64, "penalize_newline": False, "what": "ever"},
        {"repeat_last_n": 0, "repeat_penalty": 1.3, "presence_penalty": 1},
    ],
)
def test_what_changes_nothing(options: Any) -> None:
    """Nulls, neutral values, and what is the machine's business ask a backend for nothing."""
    assert generation(options) == {}


def test_no_limit() -> None:
    """A completion without a limit of its own gets the node's, since OpenAI's ends after 16 tokens."""
    assert generation({"num_predict": -1}, 100) == {"max_tokens": 100}
    assert generation({"num_predict": 3}, 100) == {"max_tokens": 3}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ([], "options"),
        ({"mirostat": 2}, "options.mirostat"),
        ({"tfs_z": 0.9}, "options.tfs_z"),
        ({"typical_p": 0.5}, "options.typical_p"),
        ({"repeat_last_n": 64, "repeat_penalty": 1.1}, "options.repeat_last_n"),
        ({"penalize_newline": False, "presence_penalty": 1}, "options.penalize_newline"),
        ({"top_p": "high"}, "options.top_p"),
        ({"num_predict": 1.5}, "options.num_predict"),
        ({"stop": [1]}, "options.stop[0]"),
    ],
)
def test_refused_by_name(options: Any, param: str) -> None:
    """What would change the answer and is not done, or is no such value, is a 400 that names the option."""
    with pytest.raises(InvalidRequest) as caught:
        generation(options)
    assert caught.value.param == param


def test_format() -> None:
    """ "" and null are no format; "json" is any object; a schema is a schema; the rest is refused."""
    assert response_format("") is response_format(None) is None
    assert response_format("json") == {"type": "json_object"}
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    made = response_format(schema)
    assert made is not None
    assert (made["type"], made["json_schema"]["schema"]) == ("json_schema", schema)
    wrongs: tuple[Any, ...] = ("xml", 5, [])
    for wrong in wrongs:
        with pytest.raises(InvalidRequest, match="format: must be"):
            response_format(wrong)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), (0, 0), (300, 300), (1.5, 1.5), (-1, math.inf), ("0", 0), ("5m", 300), ("1h30m", 5400),
        ("-1m", math.inf), ("-1", math.inf), ("300ms", 0.3), ("0s", 0), ("60", 60), ("-0", 0),
    ],
)  # fmt: skip
def test_keep_alive(value: Any, seconds: float | None) -> None:
    """Numbers are seconds, texts are Go's durations or numbers; less than nothing is for ever."""
    found = keep_alive(value)
    assert found == seconds if seconds is None else found == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "soon", "5 minutes", "m", True, [], math.nan, "1e9", "--1"])
def test_no_duration(value: Any) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidRequest, match="keep_alive"):
        keep_alive(value)
