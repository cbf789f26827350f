"""Grammars of answers that may call tools, held against text by llguidance itself with the demo model's tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import llguidance
import pytest

from exo_node.models.toolformats import hermes, mistral, phi
from exo_node.models.toolformats.base import ToolFormat
from exo_node.models.toolformats.may_call import may_call
from exo_node.models.toolformats.thoughts import KNOWN
from exo_node.types import ToolUse

DEMO = Path(str(resources.files("exo_node"))) / "models" / "demo"
TOKENIZER = llguidance.LLTokenizer(str(DEMO / "tokenizer.json"))
END = 2
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 9}, "b": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOLS = tuple({"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("add", "add-more.v2"))
FAMILIES = (hermes.HERMES, mistral.MISTRAL_LIST, mistral.MISTRAL_NAMED, phi.PHI)
THINK = KNOWN[0]


@cache
def compiled(grammar: str) -> llguidance.LLMatcher:
    matcher = llguidance.LLMatcher(TOKENIZER, llguidance.LLMatcher.grammar_from_lark(grammar), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


class Answer:
    """How far a text gets: `fits`, and whether it may be the whole answer."""

    def __init__(self, grammar: str, text: str, special: Mapping[str, int]) -> None:
        matcher = compiled(grammar).deep_copy()
        ids = []
        for piece in re.split("(" + "|".join(map(re.escape, special or ("\0",))) + ")", text):
            ids += [special[piece]] if piece in special else TOKENIZER.tokenize_str(piece)
        self.fits = matcher.try_consume_tokens(ids) == len(ids)
        self.ends = self.fits and matcher.is_accepting()


def answer(family: ToolFormat, text: str, *, special: Mapping[str, int] | None = None, parallel: bool = True,
           **thoughts: Any) -> Answer:  # fmt: skip
    use = ToolUse(tools=TOOLS, parallel=parallel)
    return Answer(may_call(family, use, special or {}, **thoughts), text, special or {})


@pytest.mark.parametrize("as_token", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_a_text_ends_anywhere_and_a_call_matches_its_schema(family: ToolFormat, as_token: bool) -> None:
    """Whether the mark is a token of its own or letters; after it nothing comes but calls."""
    special = {family.mark: 4} if as_token else {}
    said = "It is < [ { \u00e9\u4f60 done."
    for end in range(len(said) + 1):
        assert answer(family, said[:end], special=special).ends
    call = [("add", '{"a": 1}')]
    mark = family.mark[:-1] if as_token else family.mark
    for good in (call, [("add-more.v2", '{"a": 9, "b": "MARK {}"}'.replace("MARK", mark))], [*call, *call]):
        for before in ("", "Well.\n\n"):
            made = answer(family, before + family.frame.write(good), special=special)
            assert made.ends, good
    for wrong in ("{}", '{"a": 10}', '{"a": "1"}', '{"a": 1, "c": 2}', "null", "[]"):
        assert not answer(family, family.frame.write([("add", wrong)]), special=special).fits
    assert not answer(family, family.frame.write([("other", '{"a": 1}')]), special=special).fits
    assert not answer(family, f"{family.mark} is a mark.", special=special).fits
    assert not answer(family, family.frame.write(call) + " And so on.", special=special).fits
    cut = answer(family, family.frame.write(call)[: len(family.mark) + 5], special=special)
    assert cut.fits
    assert not cut.ends


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_one_call_where_no_more_are_wanted(family: ToolFormat) -> None:
    """parallel_tool_calls: false."""
    call = ("add", '{"a": 1}')
    assert answer(family, family.frame.write([call]), parallel=False).ends
    assert not answer(family, family.frame.write([call, call]), parallel=False).fits


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_no_other_way_into_a_call(family: ToolFormat) -> None:
    """What else the parser would read as one is kept out of texts; where the mark is a token, its letters are, too."""
    for other in family.other_marks:
        assert answer(family, other[:-1]).ends
        assert not answer(family, f"So: {other}").fits
    spelled = TOKENIZER.tokenize_str(family.mark)
    assert len(spelled) > 1
    grammar = may_call(family, ToolUse(tools=TOOLS), {family.mark: 4})
    matcher = compiled(grammar).deep_copy()
    assert matcher.try_consume_tokens(spelled) < len(spelled)


@pytest.mark.parametrize("special", [{}, {"</think>": 3}, {"<think>": 5, "</think>": 3}])
def test_thoughts_may_mention_the_mark(special: dict[str, int]) -> None:
    """Before the answer they are free; they may break off; a call after them is bound."""
    family = hermes.HERMES
    call, wrong = (family.frame.write([("add", arguments)]) for arguments in ('{"a": 1}', "{}"))
    for opened, inside in (("<think>", False), ("\n<think>", False), ("", True)):
        thought = f"{opened}I see <tool_call> here"

        def fits(text: str, inside: bool = inside) -> Answer:
            return answer(family, text, special=special, marks=THINK, inside=inside)

        assert fits(thought).ends
        assert fits(f"{thought}</think>\n\nNo.").ends
        assert fits(f"{thought}</think>{call}").ends
        assert not fits(f"{thought}</think>\n{wrong}").fits
    assert answer(family, "Plain.", special=special, marks=THINK).ends
    assert answer(family, call, special=special, marks=THINK).ends
    assert not answer(family, wrong, special=special, marks=THINK).fits
