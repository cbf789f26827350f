"""A stand-in as a process: `python -m tests.standins openai --port 0 --model gpt-4o --chunks 100`.

Prints one JSON line, {"provider", "url", "pid"}, once it listens; ends on SIGTERM, SIGINT or the end of its standard
input (with --until-eof).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys

from tests.standins import PROVIDERS, Script, standin


async def live(arguments: argparse.Namespace) -> None:
    script = Script(chunks=arguments.chunks, first_s=arguments.first_s, gap_s=arguments.gap_s, join=arguments.join)
    options = {
        "key": arguments.key,
        "models": tuple(arguments.model),
        "port": arguments.port,
        "script": script,
        "record": False,
    }
    loop = asyncio.get_running_loop()
    leave = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave.set)
    if arguments.until_eof:
        loop.add_reader(sys.stdin.fileno(), lambda: leave.set() if not os.read(sys.stdin.fileno(), 4096) else None)
    async with standin(arguments.provider, **options) as server:
        print(json.dumps({"provider": arguments.provider, "url": server.url, "pid": os.getpid()}), flush=True)
        await leave.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.standins")
    parser.add_argument("provider", choices=sorted(PROVIDERS))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default="")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--first-s", type=float, default=0.0)
    parser.add_argument("--gap-s", type=float, default=0.0)
    parser.add_argument("--join", type=int, default=1)
    parser.add_argument("--until-eof", action="store_true")
    asyncio.run(live(parser.parse_args()))


if __name__ == "__main__":
    main()
