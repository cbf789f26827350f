"""What the head refuses, by field, before a request takes a place in the queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from exo_node.errors import InvalidRequest
from exo_node.ring.admission import check_job, finished_already
from exo_node.ring.sequences import Job
from exo_node.types import SamplingParams

JOB = Job(request_id="r", prompt=(1, 2), max_tokens=4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-38),
        ("frequency_penalty", float("inf")),
        ("presence_penalty", float("nan")),
        ("top_logprobs", 11),
        ("logit_bias", {10: 1.0}),
        ("logit_bias", {1: float("nan")}),
    ],
)
def test_each_sampling_field_is_checked_by_name(field: str, value: Any) -> None:
    """A value that would have no meaning is a 400 that names the field."""
    with pytest.raises(InvalidRequest) as caught:
        check_job(replace(JOB, sampling=SamplingParams(**{field: value})), 16, 10)
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ()}, "prompt"),
        ({"prompt": (10,)}, "prompt"),
        ({"generated": (10,)}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_the_job_itself_is_checked(fields: dict[str, Any], param: str) -> None:
    """Empty prompts, ids outside the vocabulary and max_tokens below 1."""
    with pytest.raises(InvalidRequest) as caught:
        check_job(replace(JOB, **fields), 16, 10)
    assert caught.value.param == param


def test_good_jobs_pass() -> None:
    """The last position of the context is for the answer."""
    check_job(replace(JOB, prompt=(1,) * 15), 16, 10)
    with pytest.raises(InvalidRequest, match=r"16 tokens.*holds 16"):
        check_job(replace(JOB, prompt=(1,) * 16), 16, 10)


def test_complete_jobs_are_seen() -> None:
    """Only a resumed job can be complete before it begins."""
    assert finished_already(JOB, 16) is None
    assert finished_already(replace(JOB, generated=(1, 2, 3, 4)), 16) == "length"
    assert finished_already(replace(JOB, generated=(1, 2)), 4) == "length"
    assert finished_already(replace(JOB, generated=(1, 9), stop_ids=frozenset({9})), 16) == "stop"


def test_a_grammar_that_is_complete_ends_the_job() -> None:
    """Its answer may not go on; and it cannot cover more than the prompt."""
    assert finished_already(replace(JOB, complete=True), 16) == "stop"
    with pytest.raises(InvalidRequest, match="grammar covers 3 tokens"):
        check_job(replace(JOB, begun=3), 16, 10)
