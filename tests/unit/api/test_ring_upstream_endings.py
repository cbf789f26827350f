"""Every way in which a ring ends for good in the middle of an answer, in every dialect: never a cut text as a whole."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from exo_node import errors
from exo_node.errors import ExoError
from exo_node.routing.adapter import course
from exo_node.types import TokenDelta
from tests.unit.api.scripted import END, ScriptedBackend, serve_api
from tests.unit.api.test_leaving import PATHS

WAYS: list[ExoError] = [
    errors.NoCapacity("the model needs 9 GiB, the nodes that are left have 3"),
    errors.PeerUnavailable("stage 1 of the ring is gone"),
    errors.RingBroken("stage 1: the engine raised"),
    errors.CheckpointError("model-00002.safetensors is gone"),
    errors.ModelNotFound("no node that is left has the files of 'demo'"),
    errors.DigestMismatch("the files of node b differ"),
    errors.DownloadError("the hub cannot be reached"),
    errors.EngineUnavailable("no engine is left"),
    errors.ProtocolMismatch("node b runs an older exo"),
]
ASKS = {**PATHS, "/ollama/api/generate": {"model": "demo", "prompt": "hi"}}
COMPLETE = ('"finish_reason":"', '"stop_reason":"', "message_stop", "response.completed", '"done":true')
BEGUN = [TokenDelta("Once ", (5,)), TokenDelta("upon", (6,))]


def last_event(text: str) -> dict[str, Any]:
    """The last event of a stream, server-sent or a line of JSON."""
    line = [line for line in text.splitlines() if line.strip() and not line.startswith("event:")][-1]
    event: dict[str, Any] = json.loads(line.removeprefix("data: "))
    return event


@pytest.mark.parametrize("path", ASKS)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_an_answer_that_nobody_goes_on_with(path: str, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream has its text and ends with one error event that says after how much and why; nothing says that it is
    complete. A plain request gets a 503 with Retry-After and no text."""
    monkeypatch.setattr(course, "MAX_WAIT_S", 0.0)  # for a ring that has failed again and again
    backend = ScriptedBackend([])
    async with serve_api(backend) as url, aiohttp.ClientSession(url) as http:
        for error in WAYS:
            backend.script = [*BEGUN, error]
            async with http.post(path, json={**ASKS[path], "stream": stream}) as answer:
                text = await answer.text()
            assert "broke off after 2 tokens" in text, (error, text)
            assert error.message in text.replace("\\", "")
            if not stream:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "5"), error
                assert "Once" not in text
                continue
            assert answer.status == 200
            assert "Once" in text
            assert "[DONE]" not in text
            assert "broke off" in json.dumps(last_event(text)), error
            for complete in (
                '"finish_reason":"',
                '"stop_reason":"',
                "message_stop",
                "response.completed",
                '"done":true',
            ):
                assert complete not in text.replace(" ", ""), error
    assert backend.open == 0


async def test_one_that_had_not_begun_says_what_it_was() -> None:
    """Before the first token there is nothing lost: the error's own status and code, and when to ask again."""
    for error in (errors.NoCapacity("full"), errors.RingBroken("broken"), errors.PeerUnavailable("gone")):
        async with serve_api(ScriptedBackend([error])) as url, aiohttp.ClientSession(url) as http:
            for stream in (True, False):
                body = {**ASKS["/v1/chat/completions"], "stream": stream}
                async with http.post("/v1/chat/completions", json=body) as answer:
                    assert answer.status == 503
                    assert "Retry-After" in answer.headers
                    assert (await answer.json())["error"]["code"] == error.code


async def test_a_full_queue_is_told_and_is_no_failure() -> None:
    """A 429 with the queue's length; the ring is not left alone for it: whoever comes next may find room."""
    backend = ScriptedBackend([errors.Overloaded("9 requests wait for this model already", retry_after=31.2)])
    async with serve_api(backend) as url, aiohttp.ClientSession(url) as http:
        for path in ASKS:
            async with http.post(path, json={**ASKS[path], "stream": True}) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (429, "32")
        backend.script = [*BEGUN, END]
        async with http.post("/v1/chat/completions", json=ASKS["/v1/chat/completions"]) as answer:
            assert answer.status == 200
