"""Stand-in providers: real HTTP on loopback in each provider's own wire format, with scripted behaviour.

    async with standin("openai", key="sk-test", models=("gpt-4o",)) as openai:
        openai.queue.append(Script(status=429, retry_after="7"))   # the next request only
        openai.script = Script(gap_s=0.01)                         # every other one
        ... openai.url, openai.requests[-1].body

`with serve(standin("anthropic")) as claude:` runs one in a thread; `python -m tests.standins openai --port 0` as a
process that prints one JSON line with its address.
"""

from __future__ import annotations

from typing import Any

from tests.standins.answers import answer_to
from tests.standins.anthropic import Anthropic
from tests.standins.azure import Azure
from tests.standins.cohere import Cohere
from tests.standins.gemini import Gemini
from tests.standins.hazards import no_such_host_url, refused_url, self_signed
from tests.standins.litellm_proxy import LiteLLMProxy
from tests.standins.ollama import Ollama
from tests.standins.openai import OpenAI
from tests.standins.script import Received, Script
from tests.standins.server import Standin, serve

PROVIDERS: dict[str, type[Standin]] = {
    "openai": OpenAI,
    "azure": Azure,
    "anthropic": Anthropic,
    "gemini": Gemini,
    "ollama": Ollama,
    "cohere": Cohere,
    "litellm_proxy": LiteLLMProxy,
}


def standin(provider: str, **options: Any) -> Standin:
    """A stand-in of `provider` (a key of PROVIDERS), not yet listening; options are `Standin`'s."""
    return PROVIDERS[provider](**options)


__all__ = [
    "PROVIDERS", "Anthropic", "Azure", "Cohere", "Gemini", "LiteLLMProxy", "Ollama", "OpenAI", "Received", "Script",
    "Standin", "answer_to", "no_such_host_url", "refused_url", "self_signed", "serve", "standin",
]  # fmt: skip
