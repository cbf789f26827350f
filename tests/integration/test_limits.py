"""API keys over real daemons: rates that hold on one node and on three that share Redis, budgets, models, the log."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tests.integration.harness import ROOT, NodeProcess, nodes, wait_until
from tests.integration.redis_server import PASSWORD, Server, needs_redis
from tests.standins import Script, Standin, serve, standin

HELLO: Any = [{"role": "user", "content": "Hello there"}]
KEY = "sk-planted-limits-0123456789"
CONFIG = """\
model_list:
  - model_name: paid
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/PLANTED_KEY
      api_base: @URL@/v1
      input_cost_per_token: 0.001
      output_cost_per_token: 0.01
    model_info: {id: paid-1}
  - model_name: rare
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/PLANTED_KEY, api_base: "@URL@/v1"}
  - model_name: free
    litellm_params: {model: openai/gpt-4o, api_key: any, api_base: "http://127.0.0.1:9/v1", input_cost_per_token: 0}
fallbacks: {free: [paid]}
equivalents: "off"
limits: {models: {rare: {rpm: 2}}, user: {rpm: 3}}
"""
REDIS = "redis: {host: 127.0.0.1, port: @PORT@, password: os.environ/PLANTED_REDIS}\n"


def add_key(home: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """`exo apikey add`: the key that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "exo_node", "apikey", "add", *arguments],
        cwd=ROOT, env={**os.environ, "EXO_HOME": str(home), **(env or {})}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    key = done.stdout.strip()
    assert key.startswith("sk-exo-")
    return key


def client(node: NodeProcess, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{node.api}/v1", api_key=key, max_retries=0, timeout=60)


def chat(node: NodeProcess, key: str, model: str = "paid", **more: Any) -> Any:
    asked: Any = {"model": model, "messages": HELLO, **more}
    return client(node, key).chat.completions.with_raw_response.create(**asked)


def flood(addresses: list[str], key: str, count: int) -> Counter[int]:
    """`count` requests at once, spread over the nodes: how many had which status."""

    async def run() -> Counter[int]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one(number: int) -> int:
                url = f"{addresses[number % len(addresses)]}/v1/chat/completions"
                body = {"model": "paid", "messages": HELLO, "max_tokens": 2}
                async with session.post(url, json=body, headers={"Authorization": f"Bearer {key}"}) as response:
                    if response.status == 429:
                        assert int(response.headers["Retry-After"]) > 0
                    await response.read()
                    return response.status

            return Counter(await asyncio.gather(*(one(number) for number in range(count))))

    return asyncio.run(run())


@pytest.fixture(scope="module")
def provider() -> Iterator[Standin]:
    with serve(standin("openai", key=KEY)) as one:
        yield one


@pytest.fixture(scope="module")
def node(provider: Standin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    folder = tmp_path_factory.mktemp("limits")
    config = folder / "config.yaml"
    config.write_text(CONFIG.replace("@URL@", provider.url))
    arguments = ["--discovery-module", "none", "--litellm-config", str(config)]
    with nodes(folder / "home", arguments, env={"PLANTED_KEY": KEY}) as (one,):
        yield one


def ready(node: NodeProcess, key: str) -> None:
    """Until the running node has heard of the key."""

    def known() -> bool:
        try:
            client(node, key).models.list()
        except openai.AuthenticationError:
            return False
        return node.request("GET", "/v1/models")[0] == 401  # else it has heard of no key at all

    wait_until(known, 10)


def test_a_rate_lets_exactly_so_many_through(node: NodeProcess, provider: Standin) -> None:
    """200 requests at once with a key of 50 a minute: 50 are served, 150 get a 429 with Retry-After, unasked."""
    assert node.request("GET", "/v1/models")[0] == 200  # without any key everybody on the machine may
    key = add_key(node.home, "--name", "fifty", "--rpm", "50")
    ready(node, key)
    provider.requests.clear()
    assert flood([node.api], key, 200) == {200: 50, 429: 150}
    assert len(provider.requests) == 50
    assert node.request("GET", "/v1/models")[0] == 401


def test_rates_of_a_model_and_of_a_user(node: NodeProcess, provider: Standin) -> None:
    """`limits` of the file: a model's name for everybody together, each user by himself."""
    key = add_key(node.home, "--name", "limited")
    ready(node, key)
    for _ in range(2):
        chat(node, key, model="rare")
    with pytest.raises(openai.RateLimitError, match="model 'rare' allows 2 requests per minute"):
        chat(node, key, model="rare")
    for _ in range(3):
        chat(node, key, user="carl")
    with pytest.raises(openai.RateLimitError, match="this user allows 3 requests per minute"):
        chat(node, key, user="carl")
    chat(node, key, user="dora")


def test_the_models_of_a_key(node: NodeProcess, provider: Standin) -> None:
    """What a key may not ask for is a 403, by whatever name or fallback; what it may is served."""
    key = add_key(node.home, "--name", "models", "--models", "paid,text-*")
    ready(node, key)
    assert chat(node, key).headers["x-exo-backend"] == "paid-1"
    for more in ({"model": "demo"}, {"extra_body": {"exo": {"fallbacks": ["demo"]}}}):
        with pytest.raises(openai.PermissionDeniedError):
            chat(node, key, **more)


def test_a_budget_refuses_before_and_settles_after(node: NodeProcess, provider: Standin) -> None:
    """A call that would cost more than is left is refused unasked; what was reserved and not used is given back."""
    key = add_key(node.home, "--name", "poor", "--budget", "1/day")
    ready(node, key)
    provider.requests.clear()
    with pytest.raises(openai.APIStatusError) as dear:
        chat(node, key, max_tokens=1000)  # 10 USD
    assert dear.value.status_code in (402, 429)
    assert "budget" in str(dear.value)
    assert provider.requests == []
    spent = 0.0
    for _ in range(3):  # each reserves 0.40 USD and uses a part of it: settled, all three fit
        raw = chat(node, key, max_tokens=40)
        spent += float(raw.headers["x-exo-cost"])
    assert 0.3 < spent < 1
    with pytest.raises(openai.APIStatusError):
        for _ in range(10):
            chat(node, key, max_tokens=40)


def test_who_has_no_money_left_gets_what_is_free(node: NodeProcess, provider: Standin) -> None:
    """A call whose own model costs nothing is let in, and no fallback that costs is asked for it once the budget is
    used up: it is refused as others are, with the time until there is money again."""
    rich, poor = [add_key(node.home, "--name", f"has{usd}", "--budget", usd) for usd in ("1", "0")]
    ready(node, poor)
    provider.requests.clear()
    assert chat(node, rich, model="free", max_tokens=5).headers["x-exo-backend"] == "paid-1"
    assert len(provider.requests) == 1
    with pytest.raises(openai.APIStatusError) as refused:
        chat(node, poor, model="free", max_tokens=5)
    assert len(provider.requests) == 1
    assert refused.value.status_code in (429, 502)


def test_the_spend_log(node: NodeProcess, provider: Standin) -> None:
    """One row a call, also of a failed and of a streamed one: who, what, how much; no prompt and no key."""
    key = add_key(node.home, "--name", "logged")
    ready(node, key)
    path = node.home / "node-shared.db"

    def rows() -> list[Any]:
        with sqlite3.connect(path) as database:
            return database.execute(
                "SELECT spend.status, backend, stream, prompt_tokens, completion_tokens, cost, user FROM spend "
                "JOIN api_keys ON api_keys.id = spend.key_id WHERE api_keys.name = 'logged' ORDER BY at"
            ).fetchall()

    chat(node, key, user="ann")
    list(chat(node, key, stream=True).parse())
    provider.script = Script(status=500)
    with pytest.raises(openai.APIStatusError):
        chat(node, key)
    provider.script = Script()
    wait_until(lambda: len(rows()) == 3, 10, rows)
    whole, streamed, failed = rows()
    assert (whole[0], whole[1], whole[2], whole[6]) == (200, "paid-1", 0, "ann")
    assert whole[5] == pytest.approx(whole[3] * 0.001 + whole[4] * 0.01)
    assert (streamed[0], streamed[2], streamed[4]) == (200, 1, whole[4])
    assert failed[0] >= 500
    for path in node.home.glob("node-shared.db*"):
        assert b"Hello there" not in path.read_bytes()
        assert key.encode() not in path.read_bytes()


@contextmanager
def running(server: Server) -> Iterator[None]:
    """The server in a loop of its own thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(20)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.kill(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@needs_redis
def test_three_nodes_that_share_redis(provider: Standin, tmp_path: Path) -> None:
    """200 requests at once over three nodes of one machine: 50 in all."""
    server = Server(tmp_path)
    config = tmp_path / "config.yaml"
    text = (CONFIG + REDIS).replace("@URL@", provider.url).replace("@PORT@", str(server.port))
    config.write_text(text)
    home = tmp_path / "home"
    key = add_key(home, "--name", "fifty", "--rpm", "50")
    with ExitStack() as stack:
        stack.enter_context(running(server))
        arguments = ["--discovery-module", "none", "--litellm-config", str(config), "-v"]
        env = {"PLANTED_KEY": KEY, "PLANTED_REDIS": PASSWORD}
        three = [NodeProcess(home, *arguments, env=env) for _ in range(3)]
        for one in three:
            stack.callback(one.stop)
        for one in three:
            one.wait_ready()
            ready(one, key)

        def shared(one: NodeProcess) -> bool:
            stats = client(one, key).get("/router/stats", cast_to=object)
            return bool(stats["limits"]["shared"])  # type: ignore[index]

        for one in three:
            wait_until(lambda one=one: shared(one), 10)
        provider.requests.clear()
        assert flood([one.api for one in three], key, 200) == {200: 50, 429: 150}
        assert len(provider.requests) == 50
