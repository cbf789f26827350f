"""The source documents' own examples: their fenced blocks, and running a Python one with only its imports changed."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.integration.harness import ROOT

FOLDER = ROOT.parent / "shared" / "source-documents"
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# What the documents import, and where exo-node has it.
IMPORTS: Mapping[str, str] = {
    r"from (app|services|sources|litellm)(\.[\w.]+)? import": "from exo_node.sdk import",
    r"import litellm$": "from exo_node import sdk as litellm",
    r"from langchain\.chains import": "from exo_node.sdk.langchain import",
    r"from langchain\.prompts import": "from langchain_core.prompts import",
}


def present(number: int) -> bool:
    return bool(list(FOLDER.glob(f"{number:03}_*.txt")))


def blocks(number: int, language: str) -> list[str]:
    """The fenced blocks of a document in one language, without the indentation of their fence."""
    text = next(FOLDER.glob(f"{number:03}_*.txt")).read_text(encoding="utf-8")
    found = []
    for indent, named, block in _FENCE.findall(text):
        if named == language:
            found.append("\n".join(line.removeprefix(indent) for line in block.splitlines()))
    return found


def bodies(number: int) -> list[Any]:
    """Every JSON object of a document: its `json` blocks and the `-d` of its curl calls."""
    found = [json.loads(block) for block in blocks(number, "json")]
    for block in blocks(number, "bash"):
        found += [json.loads(body) for body in re.findall(r"-d '(\{.*?\})'", block, re.DOTALL)]
    return found


def adapted(source: str, addresses: Mapping[str, str]) -> str:
    """The snippet with its imports, and the addresses that stand in it, changed."""
    lines = []
    for line in source.splitlines():
        for pattern, ours in IMPORTS.items():
            line = re.sub(rf"^(\s*){pattern}", rf"\1{ours}", line)
        lines.append(line)
    text = "\n".join(lines)
    for theirs, ours in addresses.items():
        text = text.replace(theirs, ours)
    return text


def run(sources: Sequence[str], addresses: Mapping[str, str], **names: Any) -> tuple[dict[str, Any], str]:
    """Run snippets one after another in one namespace, top-level `await` allowed: (namespace, what was printed)."""
    printed: list[str] = []

    def record(*values: object, sep: str = " ", end: str = "\n", **_: object) -> None:
        printed.append(sep.join(map(str, values)) + end)

    namespace: dict[str, Any] = {"__name__": "snippet", "print": record, **names}
    for source in sources:
        code = compile(adapted(source, addresses), "<document>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, namespace))
        else:
            exec(code, namespace)
    return namespace, "".join(printed)
