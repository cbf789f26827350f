"""A detokenizer that shows the answer's text only: thoughts and tool calls go aside, where the caller takes them."""

from __future__ import annotations

from collections.abc import Sequence

from exo_node.models.detokenizer import Detokenizer
from exo_node.models.toolformats.base import Parsed, Parser
from exo_node.models.toolformats.thoughts import ThoughtSplitter
from exo_node.types import ToolCallDelta


class AnswerReader:
    """`push` and `finish` return text as a detokenizer does; `aside` what else came since it was last asked.

    A pure function of the ids, but for the calls' own ids: an answer that broke off is read again from its tokens.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        splitter: ThoughtSplitter | None,
        parser: Parser | None,
        *,
        calls_only: bool = False,
    ) -> None:
        """`calls_only`: the answer is bound to be calls; what is not yet one when it is cut off is no text."""
        self._detokenizer = detokenizer
        self._splitter = splitter
        self._parser = parser
        self._calls_only = calls_only
        self._reasoning = ""
        self._calls: tuple[ToolCallDelta, ...] = ()

    @property
    def thinking(self) -> bool:
        """Whether the next token belongs to the thoughts, as far as is known."""
        if self._splitter is not None and self._splitter.thinking:
            return True
        return self._parser is not None and self._parser.thinking

    @property
    def calls(self) -> int:
        """Calls begun so far."""
        return 0 if self._parser is None else self._parser.calls

    @property
    def done(self) -> bool:
        """The one call that is allowed is complete."""
        return self._parser is not None and self._parser.done

    def push(self, ids: Sequence[int]) -> str:
        text = self._detokenizer.push(ids)
        text = self._read(text) if text else ""
        return "" if self._calls_only else text

    def finish(self) -> str:
        text = self._read(self._detokenizer.finish())
        if self._splitter is not None:
            text += self._parse(self._take(self._splitter.finish()))
        if self._parser is not None:
            text += self._take(self._parser.finish())
        return "" if self._calls_only else text

    def aside(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """(thoughts, pieces of calls), new ones only."""
        taken = self._reasoning, self._calls
        self._reasoning, self._calls = "", ()
        return taken

    def _read(self, text: str) -> str:
        if self._splitter is not None:
            text = self._take(self._splitter.feed(text))
        return self._parse(text)

    def _parse(self, text: str) -> str:
        if self._parser is None or not text:
            return text
        return self._take(self._parser.feed(text))

    def _take(self, parsed: Parsed) -> str:
        if parsed.reasoning:
            self._reasoning += parsed.reasoning
        if parsed.calls:
            self._calls += parsed.calls
        return parsed.text
