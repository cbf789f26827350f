#!/usr/bin/env python3
"""`litellm.acompletion` in a process of its own, for `gateway.py`: asks UPSTREAM_URL itself.

Reads lines {"concurrency", "seconds", "stream"} and answers each with {"latencies", "first", "elapsed"}.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm


async def one(base: str, stream: bool) -> tuple[float, float]:
    """(seconds to the first content, to the end)."""
    begin = time.perf_counter()
    answer: Any = await litellm.acompletion(
        model="openai/bench",
        messages=[{"role": "user", "content": "Count."}],
        api_base=base + "/v1",
        api_key="key",
        stream=stream,
        max_retries=0,
        stream_options={"include_usage": True} if stream else None,
    )
    first = 0.0
    if stream:
        count = 0
        async for chunk in answer:
            if chunk.choices and chunk.choices[0].delta.content:
                first = first or time.perf_counter() - begin
                count += 1
        assert count == 100, count
    elif not answer.choices[0].message.content:
        raise AssertionError("no content")
    took = time.perf_counter() - begin
    return first or took, took


async def load(base: str, concurrency: int, seconds: float, stream: bool) -> dict[str, Any]:
    found: list[tuple[float, float]] = []
    begin = time.perf_counter()

    async def worker() -> None:
        while time.perf_counter() - begin < seconds:
            found.append(await one(base, stream))

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    elapsed = time.perf_counter() - begin
    return {"latencies": [t for _, t in found], "first": [f for f, _ in found], "elapsed": elapsed}


async def main() -> None:
    litellm.suppress_debug_info = True
    litellm.disable_hf_tokenizer_download = True
    base = sys.argv[1]
    for stream in (False, True):
        await one(base, stream)
    print(
        json.dumps({"url": "", "version": litellm.__version__ if hasattr(litellm, "__version__") else ""}), flush=True
    )
    for line in iter(sys.stdin.readline, ""):  # nothing else runs while it waits
        print(json.dumps(await load(base, **json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
