"""A LiteLLM service with real workers over stand-in providers, for the tests of folder sidecar/."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exo_node.routing.deployment import Deployment
from exo_node.routing.upstream.service import LiteLLMService
from tests.standins import Standin

MARKS = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason="exo-node[litellm] is not installed"),
]


KEY = "sk-planted-0123456789abcdef"


MESSAGES = [{"role": "user", "content": "Hello there"}]


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


# The stand-ins behind deployments that are not called like theirs.
STANDINS = {"claude": "anthropic", "gpt": "openai", "vllm": "openai", "llama": "ollama"}


# Written into sitecustomize.py of the workers: every address that Python code of theirs asks a socket for.
GUARD = """
import os, sys
def _hook(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        said = f"connect {args[1][0]}:{args[1][1]}"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        said = f"{event} {args[0]}"
    else:
        return
    fd = os.open(@LOG@, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (said + "\\n").encode())
    os.close(fd)
sys.addaudithook(_hook)
"""


@dataclass
class Stage:
    """The service, the stand-ins behind it, and the file in which the workers' network use is written down."""

    service: LiteLLMService
    standins: dict[str, Standin]
    network: Path
    home: Path
    first_network: list[str]

    async def post(self, deployment: str, path: str, body: Any) -> tuple[int, Any, Any]:
        """(status, headers, body: JSON where it is, else bytes)."""
        async with self.service.worker() as endpoint:
            connector = aiohttp.UnixConnector(endpoint.socket)
            async with aiohttp.ClientSession(connector=connector) as session:
                how = {"data": body} if isinstance(body, aiohttp.FormData) else {"json": body}
                headers = {"x-exo-deployment": deployment}
                async with session.post(f"{endpoint.base_url}/{path}", headers=headers, **how) as response:
                    raw = await response.read()
                    is_json = response.content_type == "application/json"
                    return response.status, response.headers, json.loads(raw) if is_json else raw

    async def chat(self, deployment: str, **more: Any) -> tuple[int, Any, Any]:
        return await self.post(deployment, "chat/completions", {"messages": MESSAGES, **more})

    async def stream(self, deployment: str, path: str = "chat/completions", **more: Any) -> list[dict[str, Any]]:
        """Events of a stream; `[DONE]` as {"done": True}."""
        body = {"stream": True, "stream_options": {"include_usage": True}, **more}
        if path == "chat/completions":
            body.setdefault("messages", MESSAGES)
        status, headers, raw = await self.post(deployment, path, body)
        assert (status, headers["Content-Type"]) == (200, "text/event-stream"), raw
        lines = [line.removeprefix(b"data: ") for line in raw.split(b"\n\n") if line]
        return [{"done": True} if line == b"[DONE]" else json.loads(line) for line in lines]


def deployment(name: str, model: str, **params: Any) -> Deployment:
    provider, _, rest = model.partition("/")
    return Deployment(
        id=name, model_name=name, litellm_model=model, provider=provider, upstream_model=rest, params=params
    )


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content") or "" for e in events for c in e.get("choices", ()))
