"""The process that reads grammars: what it finds, and what ends it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from exo_node.ring.grammars import GrammarChecker
from exo_node.types import Grammar

# Every pattern more doubles what is tried before the library gives up.
ENDLESS = json.dumps({"allOf": [{"type": "string", "pattern": f".*a.{{{i}}}b"} for i in range(1, 25)]})
LINKS = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(20_000)}
DEEP = json.dumps({"$defs": {**LINKS, "a20000": {"type": "null"}}, "$ref": "#/$defs/a0"})
GOOD = Grammar("json_schema", '{"type": "null"}')


@asynccontextmanager
async def checker(cpu_s: float | None = None) -> AsyncIterator[GrammarChecker]:
    made = GrammarChecker(cpu_s)
    try:
        yield made
    finally:
        await made.close()


async def test_it_tells_what_is_wrong() -> None:
    """Right and wrong ones after each other, in one process; special tokens are the model's and not looked at."""
    async with checker() as made:
        assert await made.problem(GOOD) == ""
        assert "Unimplemented keys" in await made.problem(Grammar("json_schema", '{"not": {}}'))
        assert "unclosed group" in await made.problem(Grammar("regex", "("))
        assert "neither Lark nor GBNF" in await made.problem(Grammar("lark", "a := b"))
        assert await made.problem(Grammar("lark", 'start: <|anything|> "a"')) == ""
        assert "9007199254740993" in await made.problem(Grammar("json_schema", '{"const": 9007199254740993}'))
        assert "minProperties" in await made.problem(Grammar("lark", 'start: x\nx: %json {"minProperties": 2}\n'))
        assert (
            await made.problem(
                Grammar("json_schema", json.dumps({"enum": ["\u00e9\n" * 9 + str(i) for i in range(999)]}))
            )
            == ""
        )


@pytest.mark.parametrize(("text", "why"), [(ENDLESS, "takes too long"), (DEEP, "nested too deeply")])
async def test_a_grammar_that_ends_it_is_refused(text: str, why: str) -> None:
    """Endless work and an endless stack cost one process; the next grammar gets another."""
    async with checker(0.5) as made:
        assert why in await made.problem(Grammar("json_schema", text))
    async with checker() as made:
        assert await made.problem(GOOD) == ""


async def test_a_caller_that_goes_takes_no_answer_with_it() -> None:
    """What it asked for is not the answer to the next one."""
    async with checker() as made:
        assert await made.problem(GOOD) == ""
        asked = asyncio.create_task(made.problem(Grammar("json_schema", ENDLESS)))
        for _ in range(10):
            await asyncio.sleep(0)
        asked.cancel()
        assert isinstance((await asyncio.gather(asked, return_exceptions=True))[0], asyncio.CancelledError)
        assert "unclosed group" in await made.problem(Grammar("regex", "("))


async def test_a_process_that_was_killed_is_replaced() -> None:
    """The grammar of that moment is refused, the next one read."""
    async with checker() as made:
        assert await made.problem(GOOD) == ""
        process = made._process
        assert process is not None
        os.kill(process.pid, 9)
        await process.wait()
        await made.problem(GOOD)
        assert await made.problem(GOOD) == ""
