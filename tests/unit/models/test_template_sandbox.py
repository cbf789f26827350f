"""The processes that chat templates run in: what hostile ones can do there, which is nothing (issue 6, 5: template
rendering sandboxed with time and size limits)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import CheckpointError, InvalidRequest
from exo_node.models import template_process
from exo_node.models.template_sandbox import TemplateSandbox

LIMIT = 10_000
MESSAGES = [{"role": "user", "content": "hello"}]
ASK = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[TemplateSandbox]:
    made = TemplateSandbox(cpu_s=0.3, wall_s=3600, memory=300 << 20)  # the suite's own limit ends what this would hide
    yield made
    made.close()


def render(sandbox: TemplateSandbox, source: str, **variables: Any) -> str:
    return sandbox.render(source, {"messages": MESSAGES, **variables}, LIMIT)


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_loop_without_an_end(sandbox: TemplateSandbox) -> None:
    """A template that computes for ever, without any output, ends with its process when its time is over; it is not
    tried again at once, and others go on."""
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="does not come to an end"):
            render(sandbox, LOOPS)
        assert render(sandbox, ASK) == "hello"
    with pytest.raises(CheckpointError, match="does not come to an end"):
        sandbox.facts(LOOPS)


def test_a_process_that_does_not_answer() -> None:
    """One that waits instead of computing is given up, too."""
    stuck = TemplateSandbox()
    assert stuck.facts(ASK).variables == {"messages"}
    assert stuck._idle is not None
    stuck._wall_s = 0.05
    os.kill(stuck._idle._process.pid, signal.SIGSTOP)
    with pytest.raises(InvalidRequest, match="does not come to an end"):
        render(stuck, ASK)
    stuck.close()


@pytest.mark.parametrize(
    "source",
    [
        "{{ 9 ** (9 ** 9) }}",  # one step of the interpreter, which nothing in it can stop
        "{{ 'a' * 10 ** 9 }}",  # already when it compiles
        "{% set n = 10 ** 9 %}{{ ('a' * n) | length }}",
        "{{ 'a'.center(10 ** 9) }}{{ 'a'.ljust(10 ** 9) }}",
        "{{ 'a' | center(10 ** 9) | length }}",
        "{{ '%1000000000d' | format(1) | length }}",
        "{{ '{:1000000000}'.format(1) | length }}",
        "{{ ([1] * 10 ** 9) | length }}",
        "{% set ns = namespace(s='a') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(64) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}"
        "{{ ns.s | tojson | length }}",
        "{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}",
    ],
)
def test_what_grows_without_an_end(sandbox: TemplateSandbox, source: str) -> None:
    """Numbers, texts and lists that outgrow time, memory or the output's limit are a 400; the next template runs."""
    with pytest.raises(InvalidRequest):
        render(sandbox, source)
    assert render(sandbox, ASK) == "hello"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ messages | attr('__class__') }}",
        "{{ messages | map(attribute='__class__') | list | first | attr('__mro__') }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ '{m.__class__}'.format_map({'m': messages}) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__ }}",
        "{{ namespace.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__code__ }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
    ],
)
def test_attributes_lead_nowhere(sandbox: TemplateSandbox, source: str) -> None:
    """Neither the interpreter's own objects nor files nor modules can be reached."""
    try:
        text = render(sandbox, source)
    except InvalidRequest:
        return
    assert text == "", text


def test_what_breaks_out_of_jinja(sandbox: TemplateSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has no secret in its environment, and can open no file and no socket and start no program."""
    monkeypatch.setenv("OPENAI_API_KEY", "planted")
    own = TemplateSandbox()
    assert render(own, ASK) == "hello"
    assert own._idle is not None
    pid = own._idle._process.pid
    own_environment = Path(f"/proc/{pid}/environ")
    limits = {line[:26].strip(): line[26:].split()[1] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()}
    assert b"planted" not in own_environment.read_bytes()
    own.close()
    assert (limits["Max open files"], limits["Max processes"], limits["Max file size"]) == ("3", "0", "0")
    assert limits["Max address space"] == str(1 << 30)


def test_facts(sandbox: TemplateSandbox) -> None:
    """Names that a template reads and whether it walks parts; what does not compile is the model's fault."""
    facts = sandbox.facts("{% for p in messages[0]['content'] %}{{ p }}{{ tools }}{% endfor %}")
    assert facts.takes_parts and facts.variables == {"messages", "tools"}
    assert not sandbox.facts(ASK).takes_parts
    for broken in ("{% if %}", "{{ x", "{% unknown %}"):
        with pytest.raises(CheckpointError, match="does not compile"):
            sandbox.facts(broken)
    environment = template_process.make_environment()
    assert template_process.variables(environment, ASK) == ["messages"]


def test_many_at_once() -> None:
    """Several threads are served side by side; a process that has ended meanwhile is replaced."""
    sandbox = TemplateSandbox(processes=2)
    told: list[str] = []
    threads = [threading.Thread(target=lambda: told.append(render(sandbox, ASK))) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert told == ["hello"] * 6
    idle = sandbox._idle
    assert idle is not None
    idle._process.kill()
    idle._process.wait()
    assert render(sandbox, ASK) == "hello"
    sandbox.close()
    assert render(sandbox, "{{ x }}", x="\ud800\u00e4") == "\ud800\u00e4"
    sandbox.close()
