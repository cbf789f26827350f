"""An answer's tokens as text, with thoughts and calls aside."""

from __future__ import annotations

from exo_node.models.answer_reader import AnswerReader
from exo_node.models.toolformats.base import Options
from exo_node.models.toolformats.harmony import HARMONY
from exo_node.models.toolformats.hermes import HERMES
from exo_node.models.toolformats.thoughts import KNOWN, ThoughtSplitter
from tests.unit.models.toolformats.reading import SCHEMAS, Words

WRITTEN = ("<think>", "hm", "</think>", "Look: ", '<tool_call>{"name": "add", ', '"arguments": {"a"', ": 1}}")


def reader(*texts: str, parallel: bool = True) -> AnswerReader:
    parser = HERMES.parser(Options(schemas=SCHEMAS, parallel=parallel))
    return AnswerReader(Words(*texts), ThoughtSplitter(KNOWN[0], inside=False), parser)


def test_thoughts_text_and_calls() -> None:
    """One answer with all three, from the tokens; which of them are thoughts is known."""
    answer = reader(*WRITTEN)
    said, thought, arguments, thinking = "", "", "", []
    for i in range(len(WRITTEN)):
        thinking.append(answer.thinking)
        said += answer.push((i,))
        reasoning, calls = answer.aside()
        thought += reasoning
        arguments += "".join(call.arguments for call in calls)
    assert (said + answer.finish(), thought, arguments, answer.calls) == ("Look:", "hm", '{"a": 1}', 1)
    assert thinking == [False, True, True, False, False, False, False]


def test_an_answer_is_read_again_from_its_tokens() -> None:
    """Cut in the middle of a call, the rest of the arguments follows; what was said before is not said again."""
    for at in range(len(WRITTEN) + 1):
        first, second = reader(*WRITTEN), reader(*WRITTEN)
        before = first.push(range(at))
        _, calls = first.aside()
        assert second.push(range(at)) == before
        second.aside()
        after = second.push(range(at, len(WRITTEN))) + second.finish()
        rest = second.aside()[1]
        assert before + after == "Look:"
        assert "".join(call.arguments for call in (*calls, *rest)) == '{"a": 1}'
        assert second.calls == 1


def test_a_forced_call_that_is_cut_off_is_no_text() -> None:
    """What was to become a call is not shown as words; an answer that may be words shows them."""
    for calls_only, text in ((True, ""), (False, '<tool_call>{"name": "a')):
        parser = HERMES.parser(Options(schemas=SCHEMAS))
        answer = AnswerReader(Words("<tool_", 'call>{"name": "a'), None, parser, calls_only=calls_only)
        assert answer.push((0, 1)) + answer.finish() == text
        assert answer.aside() == ("", ())
    splitter, parser = ThoughtSplitter(KNOWN[0], inside=False), HERMES.parser(Options(schemas=SCHEMAS))
    answer = AnswerReader(Words(*WRITTEN), splitter, parser, calls_only=True)
    assert answer.push(range(len(WRITTEN))) + answer.finish() == ""
    thought, calls = answer.aside()
    assert (thought, "".join(call.arguments for call in calls)) == ("hm", '{"a": 1}')


def test_done_after_the_only_call() -> None:
    """Where one call is allowed, its end is the answer's."""
    answer = reader(*WRITTEN, parallel=False)
    answer.push(range(6))
    assert not answer.done
    answer.push((6,))
    assert answer.done


def test_channels() -> None:
    """gpt-oss' analysis is thinking, the rest is not."""
    texts = ("<|channel|>analysis<|message|>", "hm", "<|end|>", "<|start|>assistant<|channel|>final<|message|>", "Hi")
    answer = AnswerReader(Words(*texts), None, HARMONY.parser(Options()))
    thinking = []
    for i in range(len(texts)):
        thinking.append(answer.thinking)
        answer.push((i,))
    assert thinking == [False, True, True, False, False]
    assert answer.aside() == ("hm", ())
