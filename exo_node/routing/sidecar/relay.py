"""LiteLLM's streams as chunks, with the failures that LiteLLM takes for success.

Facts of its `CustomStreamWrapper` (M): a stream that ends without a finish_reason gets an invented "stop"; one without
usage gets an invented count. Both would make a cut answer look complete, so neither is let through.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from exo_node.routing.sidecar.answers import Chunks
from exo_node.routing.sidecar.failures import CallFailed


async def chunks(stream: Any, read: Chunks, overlap: Overlap) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of a stream of LiteLLM's, as JSON data. Raises what LiteLLM raises, and `CallFailed` ("eof")."""
    source = _source(stream)
    try:
        async for said in stream:
            data = read.read(said)
            if any(choice["finish_reason"] for choice in data["choices"]) and not _really_finished(source):
                raise CallFailed("the provider's stream ended without a finish_reason", "eof")
            if data.get("usage") and not _usage_reported(source):
                del data["usage"]
                if not data["choices"]:
                    continue
            if overlap.trim(data):
                yield data
    finally:
        closing = stream if source is None else source  # what is around it for completions cannot be closed
        if hasattr(closing, "aclose"):
            await closing.aclose()


def _source(stream: Any) -> Any:
    """LiteLLM's wrapper of the provider's stream, within those that make a completion of it (engine.py); None for a
    stream of the SDK itself."""
    found = stream
    while found is not None and not hasattr(found, "received_finish_reason"):
        found = getattr(found, "exo_source", None) or getattr(found, "completion_stream", None)
    return found


def _really_finished(source: Any) -> bool:
    if source is None:
        return True  # the SDK invents nothing
    # Of Gemini's streams it keeps `intermittent_finish_reason` only, and invents that too: engine.py notes the truth.
    noted = getattr(source.completion_stream, "exo_finished", None)
    return bool(source.received_finish_reason) if noted is None else bool(noted)


def _usage_reported(source: Any) -> bool:
    """Whether a chunk of the provider's carried usage."""
    seen = getattr(source, "chunks", None)
    if seen is None:
        return True
    # The provider's usage comes with one of the last chunks.
    return any(getattr(chunk, "usage", None) is not None for chunk in reversed(seen))


class Overlap:
    """Takes the blanks off the front of a continuation that the partial answer already ends with.

    Anthropic refuses a partial answer that ends with blanks, so LiteLLM cuts them off; the model then says them again.
    """

    def __init__(self, blanks: str = "") -> None:
        self._left = blanks

    def trim(self, data: dict[str, Any]) -> bool:
        """Trim a chunk in place; False when nothing is left of it."""
        if not self._left:
            return True
        for choice in data["choices"]:
            delta = choice.get("delta") or {}
            if text := delta.get("content"):
                delta["content"] = self.cut(text)
                if not delta["content"] and not choice["finish_reason"] and not delta.get("tool_calls"):
                    return False
        return True

    def cut(self, text: str) -> str:
        """The part of `text` that is new."""
        same = 0
        while same < len(text) and same < len(self._left) and text[same] == self._left[same]:
            same += 1
        # All of the text was blanks that we had: more of them may follow. Otherwise the new part has begun.
        self._left = self._left[same:] if same == len(text) else ""
        return text[same:]


def overlap_of(body: Mapping[str, Any], model: str) -> Overlap:
    """What a continuation of `body`'s last message may repeat."""
    messages = body.get("messages") or ()
    last = messages[-1] if messages else {}
    content = last.get("content") if isinstance(last, Mapping) and last.get("role") == "assistant" else None
    if not isinstance(content, str) or not ("anthropic" in model or "claude" in model):
        return Overlap()
    return Overlap(content[len(content.rstrip()) :])
