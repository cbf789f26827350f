"""What a request looks like: task type, length, code, how hard. Pure, no tokenizer; rules that a person can read.

The heuristic strategies use it to tell which candidates suit; nothing else depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from exo_node.routing.plan import Ask, Candidate

Task = Literal["code", "math", "reasoning", "translation", "summarization", "creative", "extraction", "vision", "tools",
               "general"]  # fmt: skip
LONG, MEDIUM = 4000, 800  # prompt tokens
HARD = 0.6
WEAK_SHARE = 0.2  # a model under this share of the dearest candidate's price counts as weak
TEXT_LIMIT = 4000  # characters of a message that are looked at

# First match counts: the more telling ones stand first.
_TASKS: Sequence[tuple[Task, re.Pattern[str]]] = (
    ("translation", re.compile(r"\btranslat\w*|\binto (french|german|spanish|italian|chinese|japanese|english)\b")),
    ("summarization", re.compile(r"\bsummar\w*|\btl;?dr\b|\bkey points\b")),
    ("extraction", re.compile(r"\bextract\w*|\bclassif\w*|\blabel (this|these|the)\b|\bas (a )?(json|csv|table)\b")),
    ("code", re.compile(
        r"\b(code|coding|function|refactor\w*|debug\w*|compil\w*|unit tests?|regex|sql|python|javascript|typescript"
        r"|rust|java|golang|c\+\+|stack ?trace|traceback|exception|algorithm|api endpoint|dockerfile)(?!\w)"
    )),
    ("math", re.compile(r"\b(integral|derivative|equation|theorem|prove|proof|matrix|probability|solve for)\b"
                        r"|\d\s*[\^=]\s*\d")),
    ("reasoning", re.compile(
        r"\b(step by step|reason\w*|why does|trade-?offs?|compare|analy[sz]e\w*|plan|strategy|design|architecture)\b"
    )),
    ("creative", re.compile(r"\b(poem|story|song|lyrics|slogan|novel|haiku|joke)\b")),
)  # fmt: skip
_CODE = re.compile(r"```|^\s*(def|class|import|from|fn|func|public|const|let|var|#include|SELECT)\s", re.MULTILINE)
_HARD = re.compile(
    r"\b(complex|difficult|careful\w*|in[- ]depth|detailed|thorough\w*|rigorous\w*|prove|optimi[sz]e|architect\w*)\b"
)


@dataclass(frozen=True, slots=True)
class Assessment:
    """`hard` 0..1; above 0.6 a strong model is worth its price."""

    task: Task
    length: Literal["short", "medium", "long"]
    code: bool
    hard: float

    @property
    def words(self) -> str:
        return f"{'hard' if self.hard >= HARD else 'easy'} {self.task} task, {self.length} prompt"


def last_user_text(body: Mapping[str, Any]) -> str:
    """The text that says what is wanted: the last user message of `messages`, else `prompt` or `input`; cut."""
    messages = body.get("messages")
    for message in reversed(messages) if isinstance(messages, list) else ():
        if not isinstance(message, Mapping) or message.get("role") != "user":
            continue
        content = message.get("content")
        if isinstance(content, str):
            return content[:TEXT_LIMIT]
        if isinstance(content, Sequence):
            texts = [p.get("text") for p in content if isinstance(p, Mapping) and p.get("type") == "text"]
            return " ".join(t for t in texts if isinstance(t, str))[:TEXT_LIMIT]
    for field in ("prompt", "input", "query"):
        if isinstance(body.get(field), str):
            return str(body[field])[:TEXT_LIMIT]
    return ""


def assess(ask: Ask) -> Assessment:
    """What the request looks like."""
    text = ask.text[:TEXT_LIMIT]
    lowered = text.lower()
    code = bool(_CODE.search(text))
    task: Task = next((name for name, pattern in _TASKS if pattern.search(lowered)), "code" if code else "general")
    if task == "general" and "vision" in ask.needs:
        task = "vision"
    elif task == "general" and "tools" in ask.needs:
        task = "tools"
    length: Literal["short", "medium", "long"] = (
        "long" if ask.prompt_tokens >= LONG else "medium" if ask.prompt_tokens >= MEDIUM else "short"
    )
    hard = {"code": 0.4, "math": 0.5, "reasoning": 0.4, "tools": 0.3, "vision": 0.3}.get(task, 0.1)
    hard += 0.3 if _HARD.search(lowered) else 0.0
    hard += {"long": 0.3, "medium": 0.1, "short": 0.0}[length]
    hard += 0.1 if code else 0.0
    return Assessment(task, length, code, min(1.0, hard))


def suits(assessment: Assessment, candidate: Candidate, dearest: float) -> str:
    """ "" where the candidate suits, else why not. `dearest`: the highest output price among the candidates.

    The price stands for strength: nothing better is known of a model that nobody has tried.
    """
    if candidate.task_types and not {assessment.task, "general"} & {t.lower() for t in candidate.task_types}:
        return f"made for {', '.join(candidate.task_types)}"
    if assessment.hard >= HARD and strength(candidate) < WEAK_SHARE * dearest:
        return "a small model for a hard task"
    return ""


def strength(candidate: Candidate) -> float:
    """Output price in USD per million tokens; 0 where unknown."""
    return candidate.price.output if candidate.price is not None else 0.0
