"""Every family: what its models write is read back, however it is cut; what only looks like a call stays text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_node.models.toolformats import deepseek, gemma, harmony, hermes, llama, mistral, phi, pythonic
from exo_node.models.toolformats.base import Options, ToolFormat
from tests.unit.models.toolformats.reading import SCHEMAS, Read, cut, read

FAMILIES = [
    hermes.HERMES,
    llama.LLAMA,
    mistral.MISTRAL_LIST,
    mistral.MISTRAL_NAMED,
    deepseek.DEEPSEEK_FENCED,
    deepseek.DEEPSEEK_PLAIN,
    phi.PHI,
    gemma.FUNCTION_GEMMA,
    gemma.GEMMA4,
    harmony.HARMONY,
]
PARIS: dict[str, Any] = {"city": "Paris", "days": 2}
SUM: dict[str, Any] = {"a": 1, "b": 2.5}
both_calls = [("get_weather", PARIS), ("add", SUM)]
NAMES = st.sampled_from(sorted(SCHEMAS))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(), VALUES, max_size=4)
PLACES = st.lists(st.integers(0, 10_000), max_size=12)
# Written by the families' models (from model cards and chat templates, with our functions in them).
WRITTEN: list[tuple[ToolFormat, str, str, str, list[tuple[str, Any]]]] = [
    (
        hermes.HERMES,
        'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2.5}}\n</tool_call>',
        "Let me look.",
        "",
        both_calls,
    ),
    (
        hermes.HERMES,  # Qwen3-Coder
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>",
        "",
        "",
        both_calls[:1],
    ),
    (
        hermes.HERMES,  # the outer tag left out, a number where a string is wanted
        "<function=get_weather><parameter=city>75001</parameter></function>",
        "",
        "",
        [("get_weather", {"city": "75001"})],
    ),
    (
        llama.LLAMA,
        '<|python_tag|>{"type": "function", "name": "get_weather", "parameters": {"city": "Paris", "days": 2}}',
        "",
        "",
        both_calls[:1],
    ),
    (llama.LLAMA, "[get_weather(city='Paris', days=2), add(a=1, b=2.5)]", "", "", both_calls),
    (
        llama.LLAMA,
        '<|python_start|>[add(a=[1, {"b": True}], c=None)]<|python_end|>',
        "",
        "",
        [("add", {"a": [1, {"b": True}], "c": None})],
    ),
    (
        mistral.MISTRAL_LIST,
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}, "id": "abcdefghi"}, '
        '{"name": "add", "arguments": {"a": 1, "b": 2.5}}]',
        "",
        "",
        both_calls,
    ),
    (
        mistral.MISTRAL_NAMED,
        'Wait.[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{"city": "Paris", "days": 2}'
        '[TOOL_CALLS]add{"a": 1, "b": 2.5}',
        "Wait.",
        "",
        both_calls,
    ),
    (
        deepseek.DEEPSEEK_FENCED,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Paris", "days": 2}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n'
        '```json\n{"a": 1, "b": 2.5}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        "",
        "",
        both_calls,
    ),
    (
        phi.PHI,
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}]<|/tool_call|>',
        "",
        "",
        both_calls[:1],
    ),
    (phi.PHI, 'functools[{"name": "add", "arguments": {"a": 1, "b": 2.5}}]', "", "", both_calls[1:]),
    (
        gemma.FUNCTION_GEMMA,
        "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2}<end_function_call>"
        "<start_function_call>call:add{a:1,b:2.5}<end_function_call>",
        "",
        "",
        both_calls,
    ),
    (
        gemma.GEMMA4,
        '<|tool_call>call:get_weather{city:<|"|>Pa,}ris<|"|>,days:[1,{x:true}],z:{}}<tool_call|>',
        "",
        "",
        [("get_weather", {"city": "Pa,}ris", "days": [1, {"x": True}], "z": {}})],
    ),
    (
        harmony.HARMONY,
        "<|channel|>analysis<|message|>Need weather.<|end|><|start|>assistant<|channel|>commentary<|message|>"
        "I look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Paris", "days": 2}<|call|>',
        "I look.",
        "Need weather.",
        both_calls[:1],
    ),
    (
        harmony.HARMONY,
        '<|start|>assistant to=functions.add<|channel|>commentary json<|message|>{"a": 1, "b": 2.5}',
        "",
        "",
        both_calls[1:],
    ),
    (
        harmony.HARMONY,
        "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>Hello.",
        "Hello.",
        "Easy.",
        [],
    ),
]
# (family, what it wrote, the text that it is, the calls in it)
BROKEN: list[tuple[ToolFormat, str, str, list[list[str]]]] = [
    (hermes.HERMES, "a < b, </tool_call> and <tool_", "a < b, </tool_call> and <tool_", []),
    (hermes.HERMES, '<tool_call>{"name": "nope", "arguments": {}}</tool_call>', "", []),
    (hermes.HERMES, '<tool_call>{"name": 5}</tool_call> x', "", []),
    (hermes.HERMES, '<tool_call>{"name": "add", "arguments": [1]}</tool_call>', "", []),
    (hermes.HERMES, '<tool_call><tool_call>{"name": "add"}</tool_call>', "<tool_call>", [["add", "{}"]]),
    (hermes.HERMES, '<tool_call>{"arguments": "{\\"a\\": 1}", "name": "add"}', "-", [["add", '{"a": 1}']]),
    (hermes.HERMES, '<tool_call>{"name": "add", "arguments": {"a": 1, b}} x', "b}} x", [["add", '{"a": 1, ']]),
    (hermes.HERMES, '<tool_call>{"name": "add", "arguments": {"a": "1\\x', "x", [["add", '{"a": "1\\']]),
    # cut off by max_tokens
    (hermes.HERMES, '<tool_call>{"name": "add", "argu', "", []),
    (hermes.HERMES, '<tool_call>{"name": "add", "arguments": {"a": tr', "-", [["add", '{"a": tr']]),
    (hermes.HERMES, '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_c', "-", [["add", '{"a": 1}']]),
    (hermes.HERMES, "<tool_call><function=add><parameter=a>1</parameter><para", "-", [["add", '{"a": 1']]),
    (llama.LLAMA, 'See {"name": "add", "parameters": {}}', "", []),
    (llama.LLAMA, '{"answer": 42}', "", []),
    (llama.LLAMA, "[1, 2, 3]", "", []),
    (llama.LLAMA, "[add]", "", []),
    (llama.LLAMA, "[add(1)]", "", []),
    (mistral.MISTRAL_NAMED, "[TOOL_CALLS]what is this[", "", []),
    (deepseek.DEEPSEEK_PLAIN, "<｜tool▁calls▁begin｜> so", "", []),
    (gemma.GEMMA4, "<|tool_call>call:add{a:1,b:", "-", [["add", '{"a": 1']]),
    (harmony.HARMONY, "No channel at all.", "", []),
    (harmony.HARMONY, "<|channel|>final<|message|>Hel<|", "Hel<|", []),
    (harmony.HARMONY, "<|channel|>fin", "-", []),
    (
        harmony.HARMONY,
        '<|channel|>commentary to=functions.nope <|constrain|>json<|message|>{"a": 1}',
        '{"a": 1}',
        [],
    ),
]


def name_of(family: Any) -> str | None:
    return family.name if isinstance(family, ToolFormat) else None


@pytest.mark.parametrize(("family", "written", "text", "reasoning", "calls"), WRITTEN, ids=name_of)
def test_what_models_write(
    family: ToolFormat, written: str, text: str, reasoning: str, calls: list[tuple[str, Any]]
) -> None:
    """Calls with their arguments, the text and the thoughts beside them, whole and a character at a time."""
    for pieces in ([written], list(written)):
        found = read(family, *pieces)
        assert (found.text, found.reasoning, found.parsed_calls) == (text, reasoning, calls)


@pytest.mark.parametrize(("family", "written", "text", "calls"), BROKEN, ids=name_of)
def test_what_only_looks_like_a_call(family: ToolFormat, written: str, text: str, calls: list[list[str]]) -> None:
    """It stays text; of a call that was begun and broke off stays what is valid ("-" above: no text, "": all of it)."""
    expected = Read("" if text == "-" else text or written, "", calls)
    assert read(family, written) == expected
    assert read(family, *written) == expected


@settings(max_examples=25, deadline=None)
@given(calls=st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=3), places=PLACES)
@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_round_trip(family: ToolFormat, calls: list[tuple[str, Any]], places: list[int]) -> None:
    """Calls as the family's frame writes them are read back exactly, cut anywhere."""
    if family.frame.single:
        del calls[1:]
    written = family.frame.write([(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls])
    found = read(family, *cut(written, places))
    assert (found.text, found.reasoning) == ("", "")
    assert found.parsed_calls == calls


@settings(max_examples=40, deadline=None)
@given(data=st.data(), places=PLACES)
@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_cutting_changes_nothing(family: ToolFormat, data: st.DataObject, places: list[int]) -> None:
    """Any mixture of text, markers and halves of calls reads the same however it comes, and nothing is lost."""
    parts = [*family.markers, family.frame.write([("add", '{"a": 1}')]), '{"name": "add", "', "arguments", '": {', "}"]
    written = "".join(data.draw(st.lists(st.sampled_from(parts) | st.text(max_size=4), max_size=8)))
    whole = read(family, written)
    assert read(family, *cut(written, places)) == whole
    if not whole.calls and family is not harmony.HARMONY:
        assert whole.text == written


@settings(max_examples=40, deadline=None)
@given(data=st.data(), places=PLACES)
@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_what_is_out_depends_on_the_text_alone(family: ToolFormat, data: st.DataObject, places: list[int]) -> None:
    """Not on how it came: an answer that goes on elsewhere is read again in one piece up to where it broke off, and
    all that this gives out is taken to be with the caller."""
    parts = [*family.markers, family.frame.write([("add", '{"a": 12, "b": [true, -1.5]}')]), "12", '": {', "}"]
    written = "".join(data.draw(st.lists(st.sampled_from(parts) | st.text(max_size=4), min_size=1, max_size=6)))
    written = written[: data.draw(st.integers(0, len(written)))]
    found = []
    for pieces in ([written], cut(written, places), list(written)):
        out, parser = Read(), family.parser(Options(schemas=SCHEMAS))
        for piece in pieces:
            out.take(parser.feed(piece))
        found.append(out)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_one_call_at_a_time(family: ToolFormat) -> None:
    """Without parallel calls the parser is done after the first, whatever follows."""
    written = family.frame.write([("add", '{"a": 1}')] if family.frame.single else [("add", '{"a": 1}'), ("add", "{}")])
    parser = family.parser(Options(schemas=SCHEMAS, parallel=False))
    parsed = parser.feed(written)
    assert parser.done
    assert [call.name for call in parsed.calls if call.name] == ["add"]


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_arguments_come_as_soon_as_they_are_certain(family: ToolFormat) -> None:
    """The name before any argument, and a long string while it is still being written."""
    written = family.frame.write([("get_weather", '{"city": "' + "x" * 50 + '"}')])
    middle = written.index("xxx") + 20
    found = read(family, written[:middle])
    assert found.calls[0][0] == "get_weather"
    assert found.calls[0][1].endswith("x" * 20)


def test_call_ids() -> None:
    """Each call has an id of OpenAI's form, its own."""
    parsed = hermes.HERMES.parser(Options(schemas=SCHEMAS)).feed(hermes.HERMES.frame.write([("add", "{}")] * 2))
    ids = [call.id for call in parsed.calls if call.name]
    assert len(set(ids)) == 2
    assert all(one.startswith("call_") and len(one) == 29 and one[5:].isalnum() for one in ids)


def test_python_literals_and_json_ones() -> None:
    """Models mix the two."""
    parser = llama.LlamaParser(Options(schemas=SCHEMAS))
    assert isinstance(parser, pythonic.PythonicParser)
    found = read(llama.LLAMA, "[add(a=true, b=null, c=-1.5, d='it\\'s', e={\"k\": [False]})]")
    assert found.parsed_calls == [("add", {"a": True, "b": None, "c": -1.5, "d": "it's", "e": {"k": [False]}})]


def test_long_answers_take_linear_time() -> None:
    """A megabyte of arguments and one of text, in small pieces."""
    long = json.dumps({"city": "x" * 1_000_000})
    written = hermes.HERMES.frame.write([("get_weather", long)]) + "y" * 1_000_000
    found = read(hermes.HERMES, *(written[i : i + 200] for i in range(0, len(written), 200)))
    assert (len(found.calls[0][1]), len(found.text)) == (len(long), 1_000_000)
