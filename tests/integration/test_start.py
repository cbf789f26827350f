"""A node without keys and configuration: small, and it speaks to nobody but this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil

from tests.integration.harness import nodes

# In sitecustomize.py of the daemon and its runners: every address that Python code asks a socket for.
GUARD = """
import os, sys
def _hook(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        said = f"connect {args[1][0]}"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        said = f"look up {args[0]}"
    else:
        return
    _write(said)
def _write(said):
    fd = os.open(@LOG@, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (said + "\\n").encode())
    os.close(fd)
sys.addaudithook(_hook)
_write("guard localhost")
"""
HERE = ("127.0.0.1", "::1", "localhost", "None", "0.0.0.0", "::")
LIMIT = 80e6  # bytes of memory before the first external call (issue 3)
HELLO: Any = [{"role": "user", "content": "Hello!"}]


def test_nothing_reaches_out(tmp_path: Path) -> None:
    """Start, lists, a chat with the demo, and names that only a provider has: no address of another machine is asked
    for, LiteLLM is not started, and the daemon stays small until the first call goes outside."""
    (tmp_path / "guard").mkdir()
    seen = tmp_path / "network.txt"
    seen.touch()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD.replace("@LOG@", repr(str(seen))))
    unset = {name: "" for name in os.environ if name.endswith(("_API_KEY", "_BASE_URL", "_API_BASE"))}
    env = {**unset, "PYTHONPATH": str(tmp_path / "guard")}
    with nodes(tmp_path / "home", ["--discovery-module", "none"], env=env) as (node,):
        daemon = psutil.Process(node.process.pid)
        assert daemon.memory_info().rss < LIMIT
        for path in ("/v1/models", "/v1/providers", "/v1/deployments", "/v1/router/stats", "/metrics"):
            assert node.client().get(node.api + path, cast_to=str)
        assert node.client().chat.completions.create(model="demo", messages=HELLO, max_tokens=5).choices
        for model in ("gpt-4o", "openai/gpt-4o", "claude-sonnet-4-5", "anthropic/claude-sonnet-4-5", "nobody"):
            status, answer = node.request("POST", "/v1/chat/completions", {"model": model, "messages": HELLO})
            assert status in (404, 503), answer
            assert model == "nobody" or "_API_KEY" in answer["error"]["message"]
        assert not any("sidecar" in " ".join(one.cmdline()) for one in daemon.children(recursive=True))
    asked = {line.partition(" ")[2].removeprefix("up ") for line in seen.read_text().splitlines()}
    assert asked
    assert {one for one in asked if one not in HERE} == set()
