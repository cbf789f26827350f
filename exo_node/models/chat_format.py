"""What a model's chat template says of how the model speaks: tools, thoughts, and what can be told to it. Pure."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from exo_node.errors import InvalidRequest
from exo_node.models.answer_reader import AnswerReader
from exo_node.models.detokenizer import Detokenizer
from exo_node.models.toolformats import conversation, harmony, hermes, lark, mistral
from exo_node.models.toolformats.base import Options, ToolFormat
from exo_node.models.toolformats.detect import thought_marks, tool_format
from exo_node.models.toolformats.hermes import HERMES
from exo_node.models.toolformats.may_call import may_call
from exo_node.models.toolformats.phi import PHI
from exo_node.models.toolformats.thoughts import ThoughtSplitter
from exo_node.types import Grammar, ToolUse

Stage = Literal["before", "inside", "after"]  # of the thoughts
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
# Variables of templates that switch thinking on and off: Qwen3 and many others; DeepSeek V3.1 and Granite.
_SWITCHES = ("enable_thinking", "thinking")
_OWN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})  # what is no option of a template
_BASE62 = string.digits + string.ascii_letters


@dataclass(frozen=True)
class ChatFormat:
    """Made once for a template: `source` is its text, `variables` the names that it reads from outside."""

    source: str
    variables: frozenset[str]

    @cached_property
    def tools(self) -> ToolFormat:
        """The family that the model calls tools in; Hermes' way where the template has none that is known here."""
        return self._own or HERMES

    @cached_property
    def _own(self) -> ToolFormat | None:
        found = tool_format(self.source)
        takes = "tools" in self.variables or (found is PHI and "tools" in self.source)
        return found if takes or found is harmony.HARMONY else None

    @property
    def native(self) -> bool:
        """Whether the template itself tells the model of its tools."""
        return self._own is not None and (self._own is PHI or "tools" in self.variables)

    @property
    def binds(self) -> bool:
        """Whether the calls of an answer that may have some can be bound: not those in Qwen3-Coder's XML, for one."""
        return bool(self.tools.mark) and not (self.native and hermes.XML in self.source)

    @cached_property
    def marks(self) -> Any:
        """The marks around thoughts; None where the model has none."""
        return None if self.is_harmony else thought_marks(self.source)

    @property
    def is_harmony(self) -> bool:
        return self._own is harmony.HARMONY

    @property
    def thinks(self) -> bool:
        """Whether the model can think before it answers."""
        return self.is_harmony or self.marks is not None

    @cached_property
    def markers(self) -> frozenset[str]:
        """Tokens that mean something to who reads the answer, special or not."""
        marks = () if self.marks is None else (self.marks.open, self.marks.close)
        return frozenset((*self.tools.markers, *marks))

    def stage(self, prompt: str) -> Stage:
        """Where an answer to the prompt begins: many templates open the thoughts themselves, or leave none to think."""
        if self.marks is not None and prompt.rstrip().endswith(self.marks.open):
            return "inside"
        return "after" if self.marks is not None and prompt.rstrip().endswith(self.marks.close) else "before"

    # -- the prompt

    def told(
        self, messages: Sequence[Mapping[str, Any]], use: ToolUse | None
    ) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]] | None]:
        """(messages, tools) for the template, which may know nothing of tools."""
        offered = None if use is None or (use.choice == "none" and not use.named) else use
        if not self.native:
            made: list[Mapping[str, Any]] = list(messages)
            if any(one.get("tool_calls") or one.get("role") == "tool" for one in made):
                made = conversation.spoken(made, self.tools.frame)
            if offered is not None:
                text = conversation.rules(offered, self.tools.frame)
                made = conversation.with_rules(made, text, knows_system=self._knows_system)
            return made, None
        named = _with_names(messages)
        if self.tools in (mistral.MISTRAL_LIST, mistral.MISTRAL_NAMED):
            named = [_short_ids(one) for one in named]
        if self.tools is PHI and "tools" not in self.variables:  # Granite writes calls alike, and takes tools as all do
            return self._phi([conversation.calls_as_text(one, PHI.frame) for one in named], offered), None
        return named, None if offered is None else list(offered.tools)

    @property
    def _knows_system(self) -> bool:
        return "system" in self.source and "ystem role not supported" not in self.source

    def _phi(self, messages: list[Mapping[str, Any]], use: ToolUse | None) -> list[Mapping[str, Any]]:
        """Its template takes the tools as a text in the system message."""
        if use is None:
            return messages
        text = json.dumps([tool["function"] for tool in use.tools], ensure_ascii=False)
        if messages and messages[0].get("role") == "system":
            return [{**messages[0], "tools": text}, *messages[1:]]
        return [{"role": "system", "content": "", "tools": text}, *messages]

    def hinted(self, hints: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the hints that this template knows, as its variables."""
        made: dict[str, Any] = {}
        for name, value in hints.items():
            with contextlib.suppress(InvalidRequest):
                made.update(self.options({name: value}))
        return made

    def options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The template's variables for a request's options. Raises `InvalidRequest` for one that would do nothing."""
        made: dict[str, Any] = {}
        for name, value in asked.items():
            if name == "reasoning_effort":
                made.update(self._effort(value))
            elif name in _OWN or name.endswith("_token"):
                field = f"chat_template_kwargs.{name}"
                raise InvalidRequest(f"{field}: is not for requests to set", param=field)
            elif name in self.variables:
                made[name] = value
            elif name not in _SWITCHES or value is not self.thinks:  # else it is so anyway
                field = name if name == "enable_thinking" else f"chat_template_kwargs.{name}"
                raise _refused(field, f"this model's chat template knows no {name}")
        return made

    def _effort(self, effort: str) -> dict[str, Any]:
        switches = {name: effort != "none" for name in _SWITCHES if name in self.variables}
        if "reasoning_effort" in self.variables:
            if effort in ("none", "minimal") and f"'{effort}'" not in self.source and f'"{effort}"' not in self.source:
                if effort == "none" and not switches:
                    raise _refused("reasoning_effort", "this model always thinks: low is the least")
                effort = "low"
            return {"reasoning_effort": effort, **switches}
        if switches:
            return switches
        # What changes nothing is right: no thoughts where there are none, OpenAI's default where they are.
        if effort == ("medium" if self.thinks else "none"):
            return {}
        raise _refused(
            "reasoning_effort",
            "this model's thinking cannot be set" if self.thinks else "this model has no thoughts before its answers",
        )

    # -- the answer

    def reader(
        self, detokenizer: Callable[[], Detokenizer], use: ToolUse | None, *, stage: Stage
    ) -> AnswerReader | None:
        """What splits the answer; None where all of it is text."""
        offered = {} if use is None else {one["function"]["name"]: one["function"]["parameters"] for one in use.tools}
        if use is not None and use.choice == "none" and not use.named:
            offered = {}
        if not offered and not self.thinks:
            return None
        marks = self.marks
        splitter = ThoughtSplitter(marks, inside=stage == "inside") if marks is not None and stage != "after" else None
        options = Options(schemas=offered, parallel=use is None or use.parallel)
        parser = self.tools.parser(options) if offered or self.is_harmony else None
        return AnswerReader(detokenizer(), splitter, parser, calls_only=_forced(use))

    def lead(self, text: str, *, stage: Stage) -> str:
        """`text`, known to be the answer's beginning, as the model would have written it after this prompt."""
        if not text:
            return ""
        if self.is_harmony:
            return f"{harmony.CHANNEL}final{harmony.MESSAGE}{text}"
        return f"\n{self.marks.close}\n\n{text}" if stage == "inside" else text

    def grammar(
        self, answer: Grammar | None, use: ToolUse | None, special: Mapping[str, int], *, stage: Stage
    ) -> Grammar | None:
        """What the whole of a sequence must match: thoughts are free, then the calls that must be, or the answer.

        `special`: ids of this tokenizer's special tokens by name. Where tools may be called and nothing else is bound,
        text is free up to a call; in a family whose calls have no mark of their own all is, and the parser reads them.
        """
        forced = _forced(use)
        may = use is not None and use.choice == "auto" and not use.named
        if use is not None and may and answer is None and self.binds:
            marks = None if stage == "after" else self.marks
            text = may_call(self.tools, use, special, marks=marks, inside=stage == "inside")
            return Grammar("may_call", text, "tools")
        if not forced and (answer is None or not (may or self.thinks)):
            return answer
        rules, starts = [], []
        if use is not None and (forced or may):
            starts.append("calls")
            rules.append(lark.of_calls(self.tools.frame, use, special))
        if answer is not None and not forced:
            final = lark.literal(f"{harmony.CHANNEL}final{harmony.MESSAGE}", special) if self.is_harmony else ""
            starts.append(f"{final} answer".strip())
            rules.append(lark.of_answer(answer))
        thoughts = ""
        if self.is_harmony:
            thoughts = "thoughts "
            rules.append(_harmony_thoughts(special))
        elif self.marks is not None and stage != "after":
            thoughts = "thoughts "
            rules.append(lark.after_thoughts(self.marks, special, inside=stage == "inside"))
        text = "\n".join([f"start: {thoughts}({' | '.join(starts)})", *rules]) + "\n"
        return Grammar("lark", text, "tools" if forced or answer is None else answer.field)


def _forced(use: ToolUse | None) -> bool:
    return use is not None and (use.named or use.choice not in ("auto", "none"))


def _harmony_thoughts(special: Mapping[str, int]) -> str:
    head = lark.literal(f"{harmony.CHANNEL}analysis{harmony.MESSAGE}", special)
    tail = lark.literal(f"{harmony.END}{harmony.START}assistant", special)
    return f"thoughts: ({head} FREE {tail})?\nFREE: /(?s:.*)/"


def _with_names(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Results with their function's name, which some templates tell the model."""
    names: dict[str, str] = {}
    made = []
    for message in messages:
        for call in message.get("tool_calls") or ():
            names[call["id"]] = call["function"]["name"]
        name = names.get(message.get("tool_call_id", ""))
        if message.get("role") == "tool" and not message.get("name") and name:
            message = {**message, "name": name}
        made.append(message)
    return made


def _short_ids(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Mistral's templates take ids of nine letters and digits only."""
    if message.get("tool_calls"):
        calls = [{**call, "id": nine(call["id"])} for call in message["tool_calls"]]
        return {**message, "tool_calls": calls}
    if message.get("tool_call_id"):
        return {**message, "tool_call_id": nine(message["tool_call_id"])}
    return message


def nine(call_id: str) -> str:
    """Nine letters and digits, the same ones for the same id.

    >>> nine("abcdefghi"), len(nine("call_1"))
    ('abcdefghi', 9)
    """
    if re.fullmatch(r"[A-Za-z0-9]{9}", call_id):
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode()).digest()[:8])
    made = ""
    for _ in range(9):
        number, digit = divmod(number, len(_BASE62))
        made += _BASE62[digit]
    return made


def _refused(name: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{name}: {problem}", param=name, code="unsupported_parameter")
