"""The grammars of a head's requests: checked in a process of their own, then compiled for the model's vocabulary."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exo_node.errors import InvalidRequest
from exo_node.models.toolformats.lark import loosened, schemas
from exo_node.types import Grammar

if TYPE_CHECKING:
    from exo_node.ring.constraint import Constraint, Vocabulary

log = logging.getLogger("exo.ring")

MAX_GRAMMAR = 2**20  # characters
KEPT, KEPT_LENGTH = 16, 2**17  # compiled grammars of up to so many characters: the next request starts from a copy
LINE = 2**16  # bytes of an answer of the checking process


class GrammarChecker:
    """Owns the checking process: started when there is something to check, and again when a grammar has ended it."""

    def __init__(self, cpu_s: float | None = None) -> None:
        """`cpu_s`: CPU seconds for one grammar, None for the process's own limit."""
        self._arguments = [] if cpu_s is None else [str(cpu_s)]
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def problem(self, grammar: Grammar) -> str:
        """What is wrong with the grammar, as the library says it; empty where nothing is."""
        return (await self.check(grammar))[0]

    async def check(self, grammar: Grammar) -> tuple[str, list[int]]:
        """Its problem, and where it may call tools, which of their schemas have one."""
        line = json.dumps({"kind": grammar.kind, "text": grammar.text}).encode() + b"\n"
        async with self._lock:
            process = self._process or await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "exo_node.ring.grammar_check",
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE,
            )
            self._process = None
            try:
                answer = await _ask(process, line)
                if not answer:
                    return _ended(await process.wait()), []
                self._process = process
            finally:  # a caller that has gone leaves its answer in the pipe
                if self._process is None and process.returncode is None:
                    process.kill()
                    await asyncio.shield(process.wait())
        found = json.loads(answer)
        return found["error"], found["unheld"]

    async def close(self) -> None:
        """End the process."""
        async with self._lock:
            process, self._process = self._process, None
            if process is not None:
                process.kill()
                await process.wait()


async def _ask(process: asyncio.subprocess.Process, line: bytes) -> bytes:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(line)
        await process.stdin.drain()
        return await process.stdout.readline()
    except ConnectionError:
        return b""


def _ended(status: int) -> str:
    """Why there is no answer, by the exit status of the checking process."""
    if status == -signal.SIGPROF:
        return "it takes too long to compile: simplify it (few patterns in one allOf, small multipleOf and bounds)"
    return "it is nested too deeply or too large to compile: simplify it"


class Grammars:
    """Makes the constraints of one head. The vocabulary is read at the first grammar, once."""

    def __init__(self, folder: Path, vocab_size: int, checker: GrammarChecker | None = None) -> None:
        self._folder = folder
        self._vocab_size = vocab_size
        self._checker = checker or GrammarChecker()
        self._lock = asyncio.Lock()
        self._vocabulary: Vocabulary | InvalidRequest | None = None
        self._matchers: dict[bytes, Any] = {}  # an `InvalidRequest` for what cannot be held
        self._masks = ThreadPoolExecutor(1, thread_name_prefix="masks")

    async def constraint(self, grammar: Grammar, begun: Sequence[int]) -> Constraint | None:
        """The way of one answer through the grammar, `begun` being its first tokens; None where the answer goes its own
        way, which only one that may call tools can.

        Raises `InvalidRequest` that names the grammar's field.
        """
        if grammar.kind != "may_call":
            return await self._held(grammar, begun)
        strict = any(one for one, _schema in schemas(grammar.text))
        try:
            return await self._held(grammar, begun)
        except InvalidRequest as error:
            if strict:
                raise
            log.info("tool calls of this answer are not bound: %s", error.message)
            return None

    async def _held(self, grammar: Grammar, begun: Sequence[int]) -> Constraint:
        if len(grammar.text) > MAX_GRAMMAR:
            problem = f"{grammar.field}: has {len(grammar.text)} characters, at most {MAX_GRAMMAR} are compiled"
            raise InvalidRequest(problem, param=grammar.field)
        made = await self._make(grammar, begun, flexible=False)
        if made is None and grammar.kind != "regex":
            made = await self._make(grammar, begun, flexible=True)  # another backend began it, with its own white space
        if made is None:
            raise InvalidRequest(
                f"{grammar.field}: does not allow the beginning of the answer that is to be continued",
                param=grammar.field,
                code="unsupported_parameter",
            )
        return made

    async def close(self) -> None:
        self._masks.shutdown(wait=False)
        await self._checker.close()

    async def _make(self, grammar: Grammar, begun: Sequence[int], *, flexible: bool) -> Constraint | None:
        vocabulary, matcher = await self._compiled(grammar, flexible=flexible)
        if isinstance(matcher, InvalidRequest):
            raise matcher
        from exo_node.ring.constraint import Constraint

        constraint = Constraint(matcher.deep_copy(), vocabulary.size, grammar, self._masks)
        return constraint if await asyncio.to_thread(constraint.begin, begun) else None

    async def _compiled(self, grammar: Grammar, *, flexible: bool) -> tuple[Vocabulary, Any]:
        """The vocabulary, and a matcher to copy."""
        key = hashlib.sha256(f"{grammar.kind} {flexible} {grammar.text}".encode()).digest()
        if key in self._matchers:  # it need not wait while another's is read, which may take seconds
            return await self._loaded(), self._known(key)
        async with self._lock:
            vocabulary = await self._loaded()
            if key in self._matchers:
                return vocabulary, self._known(key)
            matcher: Any
            try:
                sound = await self._sound(grammar)
                matcher = await asyncio.to_thread(vocabulary.compile, sound, flexible=flexible)
            except InvalidRequest as error:
                if grammar.kind != "may_call":
                    raise
                matcher = error  # the next such answer need not find out anew
            if len(grammar.text) <= KEPT_LENGTH or isinstance(matcher, InvalidRequest):
                while len(self._matchers) >= KEPT:
                    del self._matchers[next(iter(self._matchers))]
                self._matchers[key] = matcher
            return vocabulary, matcher

    def _known(self, key: bytes) -> Any:
        matcher = self._matchers[key] = self._matchers.pop(key)  # last = most recently used
        return matcher

    async def _loaded(self) -> Vocabulary:
        """The vocabulary, or why there is none, found out once."""
        if self._vocabulary is None:
            try:
                self._vocabulary = await asyncio.to_thread(_load, self._folder, self._vocab_size)
            except InvalidRequest as error:
                self._vocabulary = error
        if isinstance(self._vocabulary, InvalidRequest):
            raise self._vocabulary
        return self._vocabulary

    async def _sound(self, grammar: Grammar) -> Grammar:
        """The grammar, without those schemas of tools that cannot be held and need not be. Raises `InvalidRequest`."""
        problem, unheld = await self._checker.check(grammar)
        if unheld and not any(strict and i in unheld for i, (strict, _schema) in enumerate(schemas(grammar.text))):
            log.info(
                "arguments of %d of the tools of an answer are bound to be an object only: %s", len(unheld), problem
            )
            grammar = replace(grammar, text=loosened(grammar.text, unheld))
            problem = await self._checker.problem(grammar)
        if problem:
            from exo_node.ring.grammar_text import refusal

            raise refusal(grammar, problem)
        return grammar


def _load(folder: Path, vocab_size: int) -> Vocabulary:
    from exo_node.ring.constraint import Vocabulary

    return Vocabulary.load(folder, vocab_size)
