"""Grammars of answers that may call tools, in the Lark dialect of llguidance: free text up to the mark of a call, and
then calls whose arguments match their schemas. Pure.

A lazy terminal ends where the mark does, and the lexer takes it before the greedy one that is the whole of a text: no
text can go on past the mark. What else the family's parser would take for a call is kept out of texts.
"""

from __future__ import annotations

from exo_node.models.toolformats.base import ToolFormat
from exo_node.models.toolformats.lark import ANY, SpecialTokens, literal, of_calls, quoted
from exo_node.models.toolformats.thoughts import Marks
from exo_node.types import ToolUse


def may_call(
    tools: ToolFormat, use: ToolUse, special: SpecialTokens, *, marks: Marks | None = None, inside: bool = False
) -> str:
    """The whole grammar, of a family that has a `mark`. `marks`: thoughts may come first; `inside`: they have begun.

    Thoughts may mention the mark, and a text may end anywhere, within the thoughts too.
    """
    mark = tools.mark
    barred = [*tools.other_marks, *([mark] if mark in special else [])]
    text = ANY
    if barred:
        text += f" & ~({ANY} ({' | '.join(map(quoted, barred))}) {ANY})"
    if marks is not None and not inside and marks.open not in special:
        text += f" & ~(/\\s*/ {quoted(marks.open)} {ANY})"
    rules = [_start(marks, special, inside=inside)]
    if mark in special:
        rules.append(f"answer: TEXT ({literal(mark, special)} BLANK calls)?")
    else:
        rules += ["answer: TEXT | marked BLANK calls", f"marked[lazy]: TEXT {quoted(mark)}"]
    rules += [f"TEXT: {text}", "BLANK: /[ \\n]?/", of_calls(tools.frame, use, special, mark=mark)]
    return "\n".join(rules) + "\n"


def _start(marks: Marks | None, special: SpecialTokens, *, inside: bool) -> str:
    if marks is None:
        return "start: answer"
    if marks.close in special:
        thoughts = f"FREE ({literal(marks.close, special)} answer)?"
        rules = f"FREE: {ANY}"
    else:
        thoughts = "(FREE | thought answer)"
        rules = f"FREE: {ANY}\nthought[lazy]: FREE {quoted(marks.close)}"
    if inside:
        return f"start: {thoughts}\n{rules}"
    if marks.open in special:
        return f"start: answer | SPACE {literal(marks.open, special)} {thoughts}\nSPACE: /\\s*/\n{rules}"
    return f"start: answer | OPENED {thoughts}\nOPENED: /\\s*/ {quoted(marks.open)}\n{rules}"
