"""LiteLLM's own callbacks, run where it is."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from aiohttp import web

from exo_node.routing.call import Caller, CallRecord, UpstreamError
from exo_node.routing.callbacks.events import summary
from exo_node.routing.callbacks.names import LITELLM_CALLBACKS, POSTED_CALLBACKS
from exo_node.types import Usage
from tests.integration.sidecar_stage import MARKS, MESSAGES, Stage

pytestmark = MARKS


def event(**more: Any) -> dict[str, Any]:
    """A finished call, as the daemon tells of it."""
    caller = Caller(key_id="k1", user="ann")
    body = {"model": "fast", "messages": MESSAGES, "temperature": 0.5}
    record = CallRecord(
        id="call-1", kind="chat", model="fast", served_model="gpt-4o", backend="b1", provider="openai", stream=False,
        caller=caller, started=1_700_000_000.0, ttft_s=0.1, total_s=0.5, usage=Usage(3, 4), cost=0.25, text="Hi Ann",
        body=body, **more,
    )  # fmt: skip
    return {**summary(record), "request": body, "text": record.text}


async def test_litellms_own_callbacks(stage: Stage) -> None:
    """One of LiteLLM's loggers posts a call, and a failed one, to its service at once, with text, tokens and cost."""
    told: list[Any] = []
    status = 200

    async def collect(request: web.Request) -> web.Response:
        told.extend(json.loads(line) for line in (await request.text()).splitlines())
        return web.Response(status=status)

    app = web.Application()
    app.router.add_post("/log", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    before = stage.service._environment
    try:
        await stage.service.update(
            stage.service.deployments, {**before, "SUMOLOGIC_WEBHOOK_URL": f"http://127.0.0.1:{port}/log"}
        )
        await stage.service.tell_callback("sumologic", event())
        await stage.service.tell_callback("sumologic", event(error="it broke", status=500))
        good, bad = told
        assert (good["id"], good["status"], good["model"]) == ("call-1", "success", "gpt-4o")
        assert good["response"]["choices"][0]["message"]["content"] == "Hi Ann"
        assert good["messages"] == MESSAGES
        assert (good["prompt_tokens"], good["completion_tokens"], good["response_cost"]) == (3, 4, 0.25)
        assert (good["endTime"] - good["startTime"], good["end_user"]) == (pytest.approx(0.5), "ann")
        assert (bad["status"], bad["error_str"]) == ("failure", "it broke")
        status = 500
        with pytest.raises(UpstreamError, match="500"):
            await stage.service.tell_callback("sumologic", event())
    finally:
        await stage.service.update(stage.service.deployments, before)
        await runner.cleanup()


async def test_a_callback_without_its_key(stage: Stage) -> None:
    """LiteLLM's own word on what is missing."""
    with pytest.raises(UpstreamError, match=r"lago.*LAGO_API_BASE"):
        await stage.service.tell_callback("lago", event())


async def test_the_names_of_callbacks() -> None:
    """Ours are names of the installed package's, and none of its names is left undecided."""
    code = (
        "import json, litellm; from pathlib import Path; "
        "print(*litellm._known_custom_logger_compatible_callbacks); "
        "posted = Path(litellm.__file__).parent / 'integrations/generic_api/generic_api_compatible_callbacks.json'; "
        "print(*json.loads(posted.read_text()))"
    )
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    no_loggers = {
        "anthropic_cache_control_hook", "bitbucket", "cloudzero", "compression_interception", "dotprompt",
        "dynamic_rate_limiter", "dynamic_rate_limiter_v3", "focus", "generic_api", "gitlab", "humanloop",
        "langfuse", "litellm_agent", "mavvrik", "pagerduty", "prometheus", "resend_email", "sendgrid_email",
        "smtp_email", "vantage", "vector_store_pre_call_hook",
    }  # fmt: skip
    classes, posted = (set(line.split()) for line in done.stdout.strip().splitlines())
    assert classes - no_loggers == LITELLM_CALLBACKS
    assert posted - {"sample_callback"} == POSTED_CALLBACKS
