"""`exo run MODEL`: one answer, or a chat."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from exo_node.cli.client import Client
from exo_node.cli.load import ProgressLine, wish_arguments, wishes
from exo_node.cli.nodes import node_for_call
from exo_node.cli.parser import CLIENT, Parsed, Parser
from exo_node.errors import ConfigurationError, ExoError
from exo_node.options import OPTIONS
from exo_node.values import integer, number

# Settings that this verb has itself, or that make no sense for one call.
_OWN = {"prompt", "run_model", "default_model", "default_temp", "system_prompt", *CLIENT}
START_FLAGS = tuple(option.field for option in OPTIONS if option.field not in _OWN)
SLOW_STAGES = ("fetching", "hashing", "loading")  # what a person who waits wants to see; the others take milliseconds
SLOWEST_STAGES = ("fetching",)  # worth a line in a log, too
HELP = "/exit (or Ctrl-D) leaves, /clear forgets the chat, Ctrl-C ends an answer"


def arguments(parser: Parser, verb: str) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name from exo list, or a Hugging Face repository")
    parser.add_argument("--prompt", default=None, metavar="TEXT", help="ask this and end; without it: a chat")
    parser.add_argument("--system-prompt", default=None, metavar="TEXT", help="system message")
    parser.add_argument("--max-tokens", default=None, metavar="N", help="most tokens of an answer")
    parser.add_argument("--temperature", default=None, metavar="T", help="0 = always the likeliest token")
    parser.add_argument("--seed", default=None, metavar="N", help="the same seed gives the same answer")
    wish_arguments(parser)
    parser.add_node()
    parser.add_settings(START_FLAGS, title="settings of the node that is started when none runs")


def run(parsed: Parsed, verb: str) -> int:
    options = _options(parsed)
    wanted = wishes(parsed.own)
    settings = parsed.settings(check=False)
    with node_for_call(parsed, settings, START_FLAGS) as client:
        if is_local(client, parsed.own.model):
            prepare(client, parsed.own.model, wanted)
        elif wanted:
            flag = f"--{next(iter(wanted)).replace('_', '-')}"
            raise ConfigurationError(f"{flag}: {parsed.own.model} is not a model of this cluster's own")
        chat = Chat(client, options, parsed.own.system_prompt, verbose=settings.verbose > 0)
        if parsed.own.prompt is not None:
            chat.ask(parsed.own.prompt)
        else:
            chat.loop()
    return 0


def is_local(client: Client, model: str) -> bool:
    """Whether the ring would answer first: external models need no preparing, and one that nobody can serve (no key)
    is asked all the same, to hear why. Raises `ModelNotFound`."""
    plan = client.call("POST", "/v1/route/explain", {"model": model, "messages": [{"role": "user", "content": "?"}]})
    steps: list[dict[str, Any]] = plan["steps"]
    return steps[0]["kind"] == "ring" if steps else not plan["rejected"]


def prepare(client: Client, model: str, wishes: Mapping[str, Any]) -> None:
    """Have the model ready before it is asked, its progress on standard error: a first use may fetch gigabytes."""
    progress = ProgressLine(sys.stderr)
    shown = SLOW_STAGES if sys.stderr.isatty() else SLOWEST_STAGES
    try:
        for event in client.events("/v1/instances", {"model": model, "reuse": True, "stream": True, **wishes}):
            if event["object"] == "instance.progress" and event["stage"] in shown:
                progress.show(event)
    finally:
        progress.end()


def _options(parsed: Parsed) -> dict[str, Any]:
    """The request's fields from the flags; raises `ConfigurationError`."""
    own = parsed.own
    readers = {
        "max_tokens": integer(1),
        "temperature": number(0, 2),
        "seed": integer(-(2**63), 2**63 - 1),
    }
    options: dict[str, Any] = {"model": own.model, "stream": True}
    for field, read in readers.items():
        raw = getattr(own, field)
        if raw is not None:
            try:
                options[field] = read(raw)
            except ValueError as e:
                raise ConfigurationError(f"--{field.replace('_', '-')}: {e}") from e
    return options


class Chat:
    """A conversation. Answers stream to standard output; remarks go to standard error."""

    def __init__(self, client: Client, options: dict[str, Any], system_prompt: str | None, *, verbose: bool) -> None:
        self._client = client
        self._options = options
        self._start = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self._messages = list(self._start)
        self._verbose = verbose

    def ask(self, text: str) -> None:
        """Send one message and print the answer as it comes. Raises `ExoError`.

        Ctrl-C raises `KeyboardInterrupt` after the part that came was kept in the chat.
        """
        self._messages.append({"role": "user", "content": text})
        body = {**self._options, "messages": self._messages}
        if self._verbose:
            body["stream_options"] = {"include_usage": True}
        pieces: list[str] = []
        finish, usage, begun, first = None, None, time.perf_counter(), 0.0
        events = self._client.events("/v1/chat/completions", body, self._slow if sys.stderr.isatty() else None)
        try:
            for event in events:
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    finish = choice["finish_reason"] or finish
                    if piece := choice["delta"].get("content"):
                        first = first or time.perf_counter()
                        pieces.append(piece)
                        sys.stdout.write(piece)
                        sys.stdout.flush()
        except BaseException:
            if not pieces:
                self._messages.pop()
            raise
        finally:
            events.close()  # hangs up when it was not read to its end
            if pieces:
                self._messages.append({"role": "assistant", "content": "".join(pieces)})
                if not pieces[-1].endswith("\n"):
                    print(flush=True)
        if finish == "length" and "max_tokens" not in self._options:
            print("exo: the answer was cut at the limit of tokens", file=sys.stderr)
        if self._verbose and usage is not None:
            print(_statistics(usage, first - begun, time.perf_counter() - first), file=sys.stderr)

    def loop(self) -> None:
        """Read messages from standard input until its end or /exit. Failures are told, and the chat goes on."""
        terminal = sys.stdin.isatty()
        if terminal:
            import readline  # noqa: F401  (line editing and history in input())

            print(f"{self._options['model']}: {HELP}", file=sys.stderr)
        while (line := _read_line(terminal)) is not None:
            match line.strip():
                case "":
                    pass
                case "/exit" | "/quit" | "/bye":
                    return
                case "/clear":
                    self._messages = list(self._start)
                case "/help" | "/?":
                    print(HELP, file=sys.stderr)
                case text:
                    self._turn(text, terminal)

    def _turn(self, text: str, terminal: bool) -> None:
        try:
            self.ask(text)
        except KeyboardInterrupt:
            if not terminal:
                raise
            print("(stopped)", file=sys.stderr)
        except ExoError as e:
            if not terminal:
                raise
            print(f"exo: {e.message}", file=sys.stderr)

    def _slow(self) -> None:
        print(f"exo: waiting for {self._options['model']} (it is loaded first if it is not)", file=sys.stderr)


def _read_line(terminal: bool) -> str | None:
    """The next line, or None at the end. Ctrl-C at the prompt clears the line, as in a shell."""
    if not terminal:
        return sys.stdin.readline() or None
    while True:
        try:
            return input(">>> ")
        except EOFError:
            print(file=sys.stderr)
            return None
        except KeyboardInterrupt:
            print("\n(/exit or Ctrl-D to leave)", file=sys.stderr)


def _statistics(usage: dict[str, Any], first_s: float, rest_s: float) -> str:
    """Prompt and answer tokens, time to the first word, and the speed after it."""
    made = usage["completion_tokens"]
    speed = f"{(made - 1) / rest_s:.1f}" if made > 1 and rest_s > 0 else "-"
    return f"exo: {usage['prompt_tokens']} + {made} tokens, first after {first_s:.3f} s, then {speed} tokens/s"
