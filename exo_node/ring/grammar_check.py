"""A process that reads grammars for a runner. `python -m exo_node.ring.grammar_check`.

A schema of 600 bytes can keep the library busy for ever, one of 1 MB can use up any stack, and neither can be stopped
from within: it costs this process, not the runner. Standard input: `{"kind", "text"}` a line; standard output:
`{"error", "unheld"}` a line, the error empty where the grammar is right; where one of an answer that may
call tools is not, which of its schemas are to blame by themselves. The process ends with its input, and at its limits.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exo_node.types import Grammar

CPU_S = 5.0  # for one grammar; ITIMER_PROF ends the process, whatever it is doing
STACK = 2**21  # bytes: a quarter of a thread's, so that what passes here passes in the runner too
MEMORY = 2**30  # bytes of address space
MAX_ERROR = 2000  # characters


def checked(line: str) -> tuple[str, list[int]]:
    """What is wrong with the grammar in that line, empty where nothing is; and with which of its tools' schemas."""
    from exo_node.models.toolformats.lark import schemas
    from exo_node.types import Grammar

    fields = json.loads(line)
    grammar = Grammar(fields["kind"], fields["text"])
    problem = problem_of(grammar)
    if not problem or grammar.kind != "may_call":
        return problem, []
    texts = [text for _strict, text in schemas(grammar.text)]
    return problem, [i for i, text in enumerate(texts) if problem_of(Grammar("json_schema", text))]


def problem_of(grammar: Grammar) -> str:
    """What is wrong with the grammar; empty where nothing is."""
    import llguidance

    from exo_node.models.unheld_schema import unheld
    from exo_node.ring.grammar_text import UNHELD, limits, schemas_of, to_llguidance

    try:
        text = to_llguidance(grammar)
    except ValueError as error:
        return str(error)
    # Special tokens are the model's, which the runner knows: they are not looked at here.
    wrong, said = llguidance.LLMatcher.validate_grammar_with_warnings(text, None, limits=limits())
    if wrong:
        return said[0]
    return next((UNHELD + problem for problem in map(unheld, schemas_of(grammar)) if problem), "")


def serve(cpu_s: float) -> None:
    """Answer line by line until the input ends."""
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        problem, unheld = checked(line)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps({"error": problem[:MAX_ERROR], "unheld": unheld}), flush=True)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the runner's end is ours
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(ValueError):  # a lower limit is set already
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    threading.stack_size(STACK)
    thread = threading.Thread(target=serve, args=(float(sys.argv[1]) if len(sys.argv) > 1 else CPU_S,))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
