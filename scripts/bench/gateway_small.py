#!/usr/bin/env python3
"""`PassThrough` behind bare aiohttp, for `gateway.py`: what the client costs without the API, alone or with the adapter
(with its policy, profile and breaker) before it.

gateway_small.py UPSTREAM_URL [adapter]
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import orjson
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from exo_node.routing.adapter.adapter import LiteLLMAdapter
from exo_node.routing.adapter.parts import Parts
from exo_node.routing.call import Attempt, Call, Upstream
from exo_node.routing.deployment import Deployment
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.health.retry_budget import RetryBudget
from exo_node.routing.plan import Candidate
from exo_node.routing.policy.policy import choose
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.passthrough import PassThrough


class One:
    """A registry of one backend."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._listed = [Candidate(backend="bench", kind="deployment", provider="openai", model="bench")]

    async def candidates(self, call: Call) -> list[Candidate]:
        return self._listed

    def upstream(self, candidate: Candidate) -> Upstream:
        return self._upstream


async def main() -> None:
    deployment = Deployment(
        id="bench", model_name="bench", litellm_model="openai/bench", provider="openai", upstream_model="bench",
        params={"api_key": "key"}, api_base=sys.argv[1] + "/v1",
    )  # fmt: skip
    connections = Connections()
    upstream = PassThrough(connections, deployment)
    parts = Parts(sources=One(upstream), choose=choose, profile=Profile(), breaker=Breaker(), retries=RetryBudget())
    adapter = LiteLLMAdapter(parts) if "adapter" in sys.argv[2:] else None

    async def handle(request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        stream = bool(body.get("stream"))
        deadline = time.monotonic() + 900
        call = Call(id="1", kind="chat", model="bench", body=body, stream=stream, deadline=deadline, prompt_tokens=1)
        if adapter is not None:
            reply = await adapter.serve(call)
            if reply.whole is not None:
                return web.Response(body=reply.whole.raw, content_type="application/json", headers=reply.headers)
            assert reply.frames is not None
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **reply.headers})
            await response.prepare(request)
            async for piece in reply.frames:
                await response.write(piece)
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
            return response
        attempt = Attempt(call=call, timeout_s=900.0)
        if not stream:
            return web.Response(body=(await upstream.whole(attempt)).raw, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for batch in upstream.stream(attempt):
            await response.write(batch.raw)
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    leave = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: leave.set() if not os.read(0, 4096) else None)
    print(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await leave.wait()
    await connections.close()


if __name__ == "__main__":
    asyncio.run(main())
