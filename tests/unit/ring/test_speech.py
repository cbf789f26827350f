"""How an answer is read and bound, by what was asked and by the model's template."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from exo_node.models.answer_reader import AnswerReader
from exo_node.models.tokenizer import Tokenizer
from exo_node.ring.speech import Prompt, bound, detokenizer
from exo_node.types import GenerationRequest, Grammar, ToolUse

DEMO = Path(str(resources.files("exo_node"))) / "models" / "demo"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CHAT = ({"role": "user", "content": "hi"},)
JSON = Grammar("json")


@pytest.fixture(scope="module")
def demo() -> Tokenizer:
    return Tokenizer.load(DEMO)


def test_only_chats_are_more_than_text(demo: Tokenizer) -> None:
    """A completion, and a chat of a model without thoughts or tools, is text; with tools its calls go aside."""
    use = ToolUse(tools=(TOOL,))
    for request, split in (
        (GenerationRequest(request_id="a", model="demo", prompt="hi"), False),
        (GenerationRequest(request_id="a", model="demo", messages=CHAT), False),
        (GenerationRequest(request_id="a", model="demo", messages=CHAT, tool_use=use), True),
    ):
        assert isinstance(detokenizer(request, demo, Prompt([1])), AnswerReader) == split


def test_what_binds_an_answer(demo: Tokenizer) -> None:
    """The request's own grammar, or that of the calls that must be; nothing where nothing must."""
    forced = ToolUse(tools=(TOOL,), choice="required")
    for request, kind in (
        (GenerationRequest(request_id="a", model="demo", prompt="hi", grammar=JSON), "json"),
        (GenerationRequest(request_id="a", model="demo", messages=CHAT, grammar=JSON), "json"),
        (GenerationRequest(request_id="a", model="demo", messages=CHAT, grammar=JSON, tool_use=forced), "lark"),
        (GenerationRequest(request_id="a", model="demo", messages=CHAT), None),
    ):
        found = bound(request, demo, Prompt([1]))
        assert (None if found is None else found.kind) == kind
