"""Streams of LiteLLM's, without what it invents."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from exo_node.routing.sidecar.answers import Chunks
from exo_node.routing.sidecar.failures import CallFailed
from exo_node.routing.sidecar.relay import Overlap, chunks, overlap_of


class Chunk:
    def __init__(self, content: str = "", finish: str | None = None, usage: Any = None) -> None:
        self.usage = usage
        self._data = {"id": "1", "created": 1, "choices": [{"delta": {"content": content}, "finish_reason": finish}]}
        if usage is not None:
            self._data["usage"] = usage

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return {**self._data}


class Wrapper:
    """LiteLLM's stream wrapper, as far as it is looked at."""

    completion_stream: Any = None

    def __init__(self, said: list[Chunk], *, finish: str | None, reported: bool) -> None:
        self._said = said
        self.received_finish_reason = finish
        self.chunks = [Chunk(usage={"total_tokens": 3})] if reported else [Chunk()]
        self.closed = False

    async def __aiter__(self) -> AsyncGenerator[Chunk, None]:
        for chunk in self._said:
            yield chunk

    async def aclose(self) -> None:
        self.closed = True


async def test_an_invented_finish_is_a_failure() -> None:
    """A finish that the provider never sent is raised as "eof"; what came before it was let through."""
    stream = Wrapper([Chunk("a"), Chunk(finish="stop")], finish=None, reported=False)
    seen = []
    with pytest.raises(CallFailed) as e:
        async for chunk in chunks(stream, Chunks(), Overlap()):
            seen.append(chunk)
    assert (len(seen), e.value.failure.cause, stream.closed) == (1, "eof", True)


@pytest.mark.parametrize("reported", [True, False])
async def test_invented_usage_is_left_out(reported: bool) -> None:
    """Usage is passed on only where the provider sent some."""
    usage = {"total_tokens": 3}
    stream = Wrapper([Chunk("a"), Chunk(finish="stop"), Chunk(usage=usage)], finish="stop", reported=reported)
    seen = [chunk async for chunk in chunks(stream, Chunks(), Overlap())]
    assert [c.get("usage") for c in seen] == [None, None, *([usage] if reported else [])]


@pytest.mark.parametrize(
    ("blanks", "parts", "new"),
    [(" ", [" a", " b"], "a b"), (" ", ["a"], "a"), ("\n\n", ["\n", "\n", "x"], "x"), (" \n", [" ", "x"], "x"),
     ("", [" a"], " a"), (" ", ["\n a"], "\n a")],
)  # fmt: skip
def test_overlap(blanks: str, parts: list[str], new: str) -> None:
    """Blanks that the partial answer ends with are not said again, however the chunks are cut."""
    overlap = Overlap(blanks)
    assert "".join(overlap.cut(part) for part in parts) == new


def test_overlap_is_for_providers_that_cut_blanks() -> None:
    """Only a continuation through Anthropic's API is trimmed."""
    body = {"messages": [{"role": "assistant", "content": "so "}]}
    assert overlap_of(body, "anthropic/claude-x").cut(" far") == "far"
    assert overlap_of(body, "deepseek/chat").cut(" far") == " far"
    assert overlap_of({"messages": [{"role": "user", "content": "so "}]}, "anthropic/x").cut(" far") == " far"
