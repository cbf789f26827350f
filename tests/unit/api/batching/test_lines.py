"""The lines of a batch's files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exo_node.api.batching import lines

URL = "/v1/chat/completions"
GOOD: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": URL, "body": {"model": "m"}}


def raw(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_a_line() -> None:
    """Its custom id and its body."""
    assert lines.read_line(raw(), URL) == lines.Line("a", {"model": "m"})


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (raw(custom_id=None), "missing_required_parameter", "custom_id"),
        (raw(custom_id=5), "missing_required_parameter", "custom_id"),
        (raw(custom_id="x" * 600), "invalid_value", "custom_id"),
        (raw(method="GET"), "invalid_method", "method"),
        (raw(url="/v1/embeddings"), "mismatched_url", "url"),
        (raw(url=None), "mismatched_url", "url"),
        (raw(body=[]), "invalid_type", "body"),
        (raw(body={"stream": True}), "unsupported_parameter", "body.stream"),
        (raw(body={"background": True}), "unsupported_parameter", "body.background"),
    ],
)
def test_wrong_lines(line: bytes, code: str, param: str | None) -> None:
    """Each tells what is wrong with it, and where."""
    with pytest.raises(lines.LineError) as caught:
        lines.read_line(line, URL)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_a_file_is_checked() -> None:
    """Lines count from 1, empty ones too but as no requests; a custom id is one line's only."""
    checked = lines.check([raw(), b"", raw(), raw(custom_id="b")], URL)
    assert checked.total == 3
    assert [error.shown() for error in checked.errors] == [
        {"code": "duplicate_custom_id", "line": 3, "message": 'custom_id: "a" is another line\'s too',
         "param": "custom_id"}
    ]  # fmt: skip
    assert lines.check([raw(), b"  "], URL) == lines.Checked(1, ())
    assert [error.code for error in lines.check([b""], URL).errors] == ["empty_file"]


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not more requests than OpenAI takes; not more errors than a person reads."""
    monkeypatch.setattr(lines, "MAX_LINES", 2)
    checked = lines.check([raw(custom_id=str(i)) for i in range(3)], URL)
    assert [error.code for error in checked.errors] == ["too_many_requests"]
    assert len(lines.check([b"{"] * 200, URL).errors) == 1 + 2  # both lines, then too many


def test_results() -> None:
    """A line each, with whatever characters; the ids are read back."""
    made = [
        lines.answered("batch_req_1", "a", 200, "req-1", {"text": "half \ud800 \n"}),
        lines.unanswered("batch_req_2", "b", "batch_expired", "too late"),
    ]
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in made)
    assert json.loads(made[0]) == {
        "id": "batch_req_1",
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "req-1", "body": {"text": "half \ud800 \n"}},
        "error": None,
    }
    assert json.loads(made[1])["error"] == {"code": "batch_expired", "message": "too late"}
    assert lines.custom_ids(made) == {"a", "b"}
