"""The process that runs chat templates: `python template_process.py SYS_PATH CPU_SECONDS MEMORY_BYTES`.

A template is code that came with a model. It runs in Jinja's immutable sandbox and sees plain data only; this process
holds it to its time and memory, may open no file and no socket, starts no process, and has no secret in its
environment. One request and one answer at a time on standard input and output: 4 bytes of length, big-endian, then
JSON. It ends with its input, or of its own accord after `IDLE_S` without work. Imports nothing of exo_node: it is
started by its path.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import resource
import select
import signal
import struct
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

IDLE_S = 600.0
KEPT = 16  # compiled templates
STANDARD_FILES = 3
_CONTENT_NAMES = ("content",)
_LENGTH = struct.Struct(">I")


def main(arguments: list[str]) -> None:
    paths, cpu_s, memory = json.loads(arguments[0]), float(arguments[1]), int(arguments[2])
    sys.path[:] = paths
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for our parent, whose end is ours
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, in the middle of whatever C code
    environment = make_environment()
    _warm_up(environment)
    _confine(memory)
    templates: dict[str, Template] = {}
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while (request := _read(stdin)) is not None:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        try:
            answer = answer_to(request, environment, templates)
        except MemoryError:
            templates.clear()
            answer = {"error": "endless", "why": "MemoryError"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        raw = json.dumps(answer).encode()
        stdout.write(_LENGTH.pack(len(raw)) + raw)
        stdout.flush()


def _warm_up(environment: ImmutableSandboxedEnvironment) -> None:
    """Import what Python and Jinja import only when it is needed: it cannot be read any more then."""
    for late in ("encodings.ascii", "encodings.latin_1", "jinja2.debug", "jinja2.meta", "pprint", "textwrap"):
        importlib.import_module(late)
    for source in ("{{ 'a\\n'|wordwrap(1) }}{{ {}|pprint }}{{ strftime_now('%c') }}", "{{ 1 // 0 }}", "{% x %}"):
        answer_to({"source": source}, environment, {})
        answer_to({"source": source, "variables": {}, "limit": 100}, environment, {})


def _confine(memory: int) -> None:
    limits = {"RLIMIT_AS": memory, "RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_NPROC": 0}
    for name, most in {**limits, "RLIMIT_NOFILE": STANDARD_FILES}.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not every system has each of them
            resource.setrlimit(getattr(resource, name), (most, most))


def _read(stdin: BinaryIO) -> Any:
    """The next request; None at the end."""
    if not select.select([stdin], [], [], IDLE_S)[0]:
        return None
    head = stdin.read(_LENGTH.size)
    return json.loads(stdin.read(_LENGTH.unpack(head)[0])) if len(head) == _LENGTH.size else None


def answer_to(
    request: Mapping[str, Any], environment: ImmutableSandboxedEnvironment, templates: dict[str, Template]
) -> dict[str, Any]:
    """Of `{"source"}` its facts, with `"variables"` and `"limit"` the text; or `{"error": kind, "why"}`."""
    import jinja2

    source = request["source"]
    try:
        if "variables" not in request:
            environment.from_string(source)
            return {"takes_parts": walks_content(environment, source), "variables": variables(environment, source)}
        template = templates.get(source)
        if template is None:
            if len(templates) >= KEPT:
                templates.clear()
            template = templates[source] = environment.from_string(source)
        return render(template, request["variables"], request["limit"])
    except jinja2.TemplateError as error:
        return {"error": "refused", "why": _line(error)}
    except MemoryError:
        raise
    except Exception as error:  # a template's own mistake, whichever it is
        return {"error": "failed", "why": _line(error)}


def render(template: Template, given: Mapping[str, Any], limit: int) -> dict[str, Any]:
    pieces: list[str] = []
    size = 0
    for piece in template.generate(**given):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            return {"error": "endless", "why": f"more than {limit} characters"}
    return {"text": "".join(pieces)}


def make_environment() -> ImmutableSandboxedEnvironment:
    """The one that templates are written for (transformers' `apply_chat_template`)."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %} ... {% endgeneration %}` marks the assistant's part for training; here it only passes."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class PlainNamespace(Namespace):
        """A namespace whose attributes cannot reach the interpreter's own."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"attribute {name!r} may not be set on a namespace")
            super().__setitem__(name, value)

    def make_namespace(*args: Any, **kwargs: Any) -> PlainNamespace:
        given = dict(*args, **kwargs)
        if any(str(name).startswith("_") for name in given):
            raise jinja2.exceptions.SecurityError("a namespace may not hold names that start with '_'")
        return PlainNamespace(given)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        # Jinja's own filter escapes HTML; templates are written for plain JSON.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(layout: str) -> str:
        return datetime.now().strftime(layout)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    environment.globals["namespace"] = make_namespace
    return environment


def variables(environment: ImmutableSandboxedEnvironment, source: str) -> list[str]:
    """Names that the template reads and does not set itself."""
    from jinja2 import meta

    return sorted(meta.find_undeclared_variables(environment.parse(source)))


def walks_content(environment: ImmutableSandboxedEnvironment, source: str) -> bool:
    """Whether the template loops over a message's content, that is, takes a list of parts."""
    from jinja2 import nodes

    for loop in environment.parse(source).find_all(nodes.For):
        target = loop.iter
        if isinstance(target, nodes.Getattr) and target.attr in _CONTENT_NAMES:
            return True
        if (
            isinstance(target, nodes.Getitem)
            and isinstance(target.arg, nodes.Const)
            and target.arg.value in _CONTENT_NAMES
        ):
            return True
        if isinstance(target, nodes.Name) and target.name in _CONTENT_NAMES:
            return True
    return False


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


if __name__ == "__main__":
    main(sys.argv[1:])
