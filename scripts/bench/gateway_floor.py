#!/usr/bin/env python3
"""The floor of `gateway.py`: the least that a gateway on aiohttp does. `gateway_floor.py UPSTREAM_URL`"""

import asyncio
import json
import os
import sys

import aiohttp
from aiohttp import web

UPSTREAM = sys.argv[1] + "/v1/chat/completions"


async def handle(request: web.Request) -> web.StreamResponse:
    body = json.loads(await request.read())
    body["model"] = "bench"
    session: aiohttp.ClientSession = request.app["session"]
    async with session.post(UPSTREAM, json=body, headers={"Authorization": "Bearer key"}) as upstream:
        if not body.get("stream"):
            return web.Response(status=upstream.status, body=await upstream.read(), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for data in upstream.content.iter_any():
            await response.write(data)
        await response.write_eof()
        return response


async def main() -> None:
    app = web.Application()
    app["session"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    leave = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: leave.set() if not os.read(0, 4096) else None)
    print(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await leave.wait()
    await app["session"].close()


asyncio.run(main())
