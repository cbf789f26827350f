"""The Python SDK: every class and function that the project's documents name, over a running node.

    from exo_node.sdk import get_litellm_service
    answer = get_litellm_service().chat_completion([{"role": "user", "content": "Hello!"}], "demo")
    print(answer.choices[0].message.content)

The node is found at EXO_API_BASE, else on this machine; its key in EXO_API_KEY. Exceptions are LiteLLM's own classes
where LiteLLM is installed (looked up when first asked for), else ours of the same names.
"""

from __future__ import annotations

from typing import Any

from exo_node.sdk import errors
from exo_node.sdk.ai_services import AIProvider, get_ai_provider
from exo_node.sdk.client import AsyncClient, Client
from exo_node.sdk.factory import BoundProvider, ProviderFactory
from exo_node.sdk.provider import ChatMessage, LiteLLMProvider
from exo_node.sdk.replies import Reply
from exo_node.sdk.router import HeuristicRouter
from exo_node.sdk.service import LiteLLMConfig, LiteLLMService, get_litellm_service
from exo_node.sdk.tools import ToolDefinition

__all__ = [
    "AIProvider",
    "AsyncClient",
    "BoundProvider",
    "ChatMessage",
    "Client",
    "HeuristicRouter",
    "LiteLLMConfig",
    "LiteLLMProvider",
    "LiteLLMService",
    "ProviderFactory",
    "Reply",
    "ToolDefinition",
    "get_ai_provider",
    "get_litellm_service",
    "success_callback",
]

# Functions, "langfuse", "helicone": told of every successful chat of this process (sdk/callbacks.py).
success_callback: list[Any] = []


def __getattr__(name: str) -> Any:
    if name in errors.NAMES:
        return errors.classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
