"""A head's grammars: checked and compiled once, for the bundled model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import InvalidRequest
from exo_node.models.tokenizer import Tokenizer
from exo_node.models.toolformats.hermes import HERMES
from exo_node.models.toolformats.lark import of_answer
from exo_node.models.toolformats.may_call import may_call
from exo_node.ring.constraint import Constraint
from exo_node.ring.grammars import KEPT, MAX_GRAMMAR, GrammarChecker, Grammars
from exo_node.types import Grammar, ToolUse

DEMO = Path(str(resources.files("exo_node"))) / "models" / "demo"


@asynccontextmanager
async def grammars(folder: Path = DEMO, checker: GrammarChecker | None = None) -> AsyncIterator[Grammars]:
    made = Grammars(folder, 1280, checker)
    try:
        yield made
    finally:
        await made.close()


async def held(made: Grammars, grammar: Grammar, begun: Sequence[int] = ()) -> Constraint:
    constraint = await made.constraint(grammar, begun)
    assert constraint is not None
    return constraint


async def test_the_same_grammar_starts_anew_for_each_answer() -> None:
    """One answer's tokens do not show in another's; more grammars than are kept do no harm."""
    async with grammars() as made:
        first = await held(made, Grammar("regex", "ab"))
        assert first.allowed()[70]
        first.advance(70)
        again = await held(made, Grammar("regex", "ab"))
        assert again.allowed()[70]
        assert not first.allowed()[70]
        for number in range(KEPT + 2):
            await made.constraint(Grammar("regex", f"a{{{number}}}"), ())
        assert (await held(made, Grammar("regex", "ab"))).allowed()[70]


class Slow(GrammarChecker):
    """Reads its first grammar, and no other before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def check(self, grammar: Grammar) -> tuple[str, list[int]]:
        self.reads.set()
        await self.go_on.wait()
        return await super().check(grammar)


async def test_a_known_grammar_does_not_wait_while_another_is_read() -> None:
    """One that takes seconds to read is at the expense of who sent it."""
    checker = Slow()
    async with grammars(checker=checker) as made:
        await held(made, Grammar("regex", "ab"))
        checker.go_on.clear()
        checker.reads.clear()
        slow = asyncio.create_task(held(made, Grammar("regex", "a+")))
        await checker.reads.wait()
        assert (await asyncio.wait_for(held(made, Grammar("regex", "ab")), 10)).allowed()[70]
        assert not slow.done()
        checker.go_on.set()
        assert (await slow).allowed()[70]


async def test_what_another_backend_began_may_have_its_own_white_space() -> None:
    """Our own style first; any other is gone on with, unless it does not match the schema."""
    ids = Tokenizer.load(DEMO).encode('{\n   "a" :\t', add_special_tokens=False)
    async with grammars() as made:
        schema = Grammar("json_schema", '{"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}')
        assert (await held(made, schema, ids)).allowed()[ids[-1]]
        with pytest.raises(InvalidRequest, match="beginning of the answer"):
            await made.constraint(Grammar("json_schema", '{"type": "array"}'), ids)
        spaced = Tokenizer.load(DEMO).encode('{ "a":', add_special_tokens=False)
        either = Grammar("lark", f"start: answer\n{of_answer(schema)}\n")  # beside tools that may be called
        assert not (await held(made, either, spaced)).ended
        assert not (await held(made, either, spaced[:1])).allowed()[spaced[1]]


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (Grammar("json_schema", '{"type": "object", "not": {}}', "f"), "f: the keyword not is not supported"),
        (Grammar("regex", "(", "f"), "f: .*unclosed group"),
        (Grammar("lark", "start: <|nope|>", "f"), 'f: .*unknown special token: "<|nope|>"'),
        (Grammar("regex", "a" * (MAX_GRAMMAR + 1), "f"), f"f: has {MAX_GRAMMAR + 1} characters"),
    ],
)
async def test_a_wrong_grammar_is_the_callers(grammar: Grammar, words: str) -> None:
    """A 400 that names the field, whoever finds out."""
    async with grammars() as made:
        with pytest.raises(InvalidRequest, match=words) as caught:
            await made.constraint(grammar, ())
        assert caught.value.param == "f"


def may_call_of(tools: Mapping[str, Mapping[str, Any]], *strict: str) -> Grammar:
    use = ToolUse(
        tools=tuple({"function": {"name": name, "parameters": schema}} for name, schema in tools.items()),
        strict=frozenset(strict),
    )
    return Grammar("may_call", may_call(HERMES, use, {}), "tools")


async def test_tools_that_cannot_be_held_leave_the_others_bound() -> None:
    """Theirs are any object; a strict one is refused; what is begun otherwise goes its own way."""
    tokenizer = Tokenizer.load(DEMO)
    tools: dict[str, dict[str, Any]] = {
        "odd": {"type": "object", "not": {}},
        "good": {"type": "object", "required": ["a"]},
    }
    grammar = may_call_of(tools, "good")

    def written(name: str, arguments: str) -> list[int]:
        return tokenizer.encode(HERMES.frame.write([(name, arguments)]), add_special_tokens=False)

    async with grammars() as made:
        for _ in range(2):  # found out, and kept
            await held(made, grammar, written("odd", '{"b": 1}'))
            await held(made, grammar, written("good", '{"a": 1}'))
        with pytest.raises(InvalidRequest, match="beginning of the answer"):
            await made.constraint(grammar, written("good", "{}"))
        assert await made.constraint(may_call_of(tools), written("good", "{}")) is None
        for _ in range(2):
            with pytest.raises(InvalidRequest, match="tools: the keyword not is not supported"):
                await made.constraint(may_call_of(tools, "odd"), ())
        long = {"type": "object", "properties": {"a": {"enum": ["x" * MAX_GRAMMAR]}}}
        assert await made.constraint(may_call_of({"long": long}), ()) is None


async def test_a_model_without_a_fast_tokenizer_serves_no_grammar(tmp_path: Path) -> None:
    """It says so, and nothing else of it is touched."""
    async with grammars(tmp_path) as made:
        with pytest.raises(InvalidRequest, match="cannot be bound to a grammar"):
            await made.constraint(Grammar("json"), ())
        assert await made.constraint(may_call_of({"stop": {"type": "object"}}), ()) is None
