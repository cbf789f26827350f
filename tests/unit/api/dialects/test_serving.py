"""api/dialects/serving.py: the adapter's answers through the dialects."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.unit.api.scripted import END, ScriptedBackend, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting, whole

MESSAGES = [{"role": "user", "content": "Hello there"}]
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/messages", {"max_tokens": 9, "messages": MESSAGES}),
    ("/v1/responses", {"input": "Hello there"}),
]


@pytest.mark.parametrize("odd", [{}, {"usage": [1]}, {"usage": {"prompt_tokens": "7", "completion_tokens": 2.5}}])
@pytest.mark.parametrize(("path", "body"), ASKED)
async def test_tokens_that_a_backend_has_not_counted(path: str, body: dict[str, Any], odd: dict[str, Any]) -> None:
    """Are estimated in a whole answer, as they are at the end of a stream; what is no count is none."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi you!!"}, "finish_reason": "stop"}
    routing = ScriptedRouting()
    routing.replies = [whole({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], **odd})]
    async with (
        serve_api(ScriptedBackend([END]), routing=routing) as url,
        aiohttp.ClientSession(url) as http,
        http.post(path, json={"model": "demo", **body}) as answer,
    ):
        usage = (await answer.json())["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (routing.calls[0].prompt_tokens, 2)
