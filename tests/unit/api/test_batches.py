"""Batches: what may be asked for and what is shown; tests/integration/test_batches.py has the whole way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exo_node.api.batches import asker, batch_row, batch_view
from exo_node.api.serving import CallServer
from exo_node.config import Settings
from exo_node.errors import InvalidRequest, Unauthorized
from tests.unit.api.scripted import END, ScriptedBackend, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting, whole

GOOD: dict[str, Any] = {
    "input_file_id": "file-1",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input_file_id": None}, "input_file_id"),
        ({"input_file_id": 5}, "input_file_id"),
        ({"input_file_id": "\ud83d"}, "input_file_id"),
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"endpoint": ""}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"k": 5}}, "metadata[...]"),
        ({"metadata": {"k": "v" * 513}}, "metadata[...]"),
        ({"output_expires_after": 5}, "output_expires_after"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
        ({"priority": "high"}, "priority"),
    ],
)
def test_wrong_batches(changes: dict[str, Any], param: str) -> None:
    """Each tells the field."""
    with pytest.raises(InvalidRequest) as caught:
        batch_row({**GOOD, **changes}, "", 0.0)
    assert caught.value.param == param


def test_a_batch_is_shown() -> None:
    """OpenAI's object, with every field that it has, and none of ours."""
    row = batch_row({**GOOD, "output_expires_after": {"anchor": "created_at", "seconds": 3600}}, "key-1", 100.5)
    assert row.batch["output_expires_s"] == 3600
    shown = batch_view(replace(row, status="in_progress"))
    assert shown == {
        **GOOD,
        "id": row.id,
        "object": "batch",
        "status": "in_progress",
        "created_at": 100,
        "expires_at": 86500,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        **dict.fromkeys(("errors", "output_file_id", "error_file_id", "metadata")),
        **dict.fromkeys(
            f"{one}_at"
            for one in ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        ),
    }


async def test_lines_are_calls_of_the_key() -> None:
    """Limits and models of the key that made the batch hold; a revoked key's lines are refused."""
    routing = ScriptedRouting()
    serving = CallServer(Settings(home=Path("unused")), routing)

    async def responses(owner: str, body: Any) -> Any:
        return {"owner": owner, **body}

    ask = asker(serving, responses)
    routing.replies = [whole({"ok": 1}), whole({"data": [{"embedding": [0.5, 1.0]}]})]
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    assert await ask("key-1", "/v1/chat/completions", chat) == {"ok": 1}
    body = {"model": "m", "input": "x", "encoding_format": "base64"}
    assert await ask("key-1", "/v1/embeddings", body) == {"data": [{"embedding": "AAAAPwAAgD8="}]}
    assert [(call.caller.key_id, call.kind, call.stream) for call in routing.calls] == [
        ("key-1", "chat", False),
        ("key-1", "embedding", False),
    ]
    assert await ask("key-1", "/v1/responses", {"x": 1}) == {"owner": "key-1", "x": 1}
    routing.revoked.add("key-1")
    with pytest.raises(Unauthorized):
        await ask("key-1", "/v1/responses", {})


async def test_not_found(tmp_path: Path) -> None:
    """No such batch, no such file."""
    async with serve_api(ScriptedBackend([END]), home=tmp_path) as url, aiohttp.ClientSession(url) as http:
        for call, path in ((http.get, "/v1/batches/batch_1"), (http.post, "/v1/batches/batch_1/cancel")):
            async with call(path) as answer:
                assert answer.status == 404
        async with http.post("/v1/batches", json=GOOD) as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (400, "input_file_id")
        async with http.get("/v1/batches") as answer:
            assert (await answer.json())["data"] == []
        async with http.get("/v1/batches?limit=1000") as answer:
            assert answer.status == 400
