"""The daemon with external models that the tests of `external/` share: its configuration, and how it is asked."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import NodeProcess
from tests.standins import Script, Standin, answer_to

HELLO: Any = [{"role": "user", "content": "Hello there"}]
ANSWER = answer_to("Hello there")
KEY = "sk-planted-external-0123456789"
LONG = Script(chunks=40, gap_s=0.03)
needs_litellm = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None, reason="exo-node[litellm] is not installed"
)

CONFIG = """\
model_list:
  - model_name: fast
    litellm_params:
      model: openai/gpt-4o-mini
      api_key: os.environ/PLANTED_KEY
      api_base: @OPENAI@/v1
      input_cost_per_token: 0.000001
      output_cost_per_token: 0.000002
    model_info: {id: fast-1}
  - model_name: claude
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      api_key: os.environ/PLANTED_KEY
      api_base: @ANTHROPIC@
    model_info: {id: claude-1}
  - model_name: vectors
    litellm_params:
      model: openai/text-embedding-3-small
      api_key: os.environ/PLANTED_KEY
      api_base: @OPENAI@/v1
    model_info: {id: vectors-1}
router_settings:
  cooldown_time: 0.2
fallbacks:
  fast: [demo]
  claude: [fast]
  demo: [fast]
equivalents: "off"
continuation: any
"""


@dataclass
class Stage:
    """A node, the providers behind it, and its configuration file."""

    node: NodeProcess
    openai: Standin
    anthropic: Standin
    config: Path

    @property
    def text(self) -> str:
        return CONFIG.replace("@OPENAI@", self.openai.url).replace("@ANTHROPIC@", self.anthropic.url)

    def chat(self, model: str, **more: Any) -> Any:
        """The raw response: `.headers`, `.parse()`."""
        asked: Any = {"model": model, "messages": HELLO, **more}
        return self.node.client().chat.completions.with_raw_response.create(**asked)

    def backend(self, model: str) -> str:
        return str(self.chat(model, max_tokens=5).headers["x-exo-backend"])

    def deployments(self) -> dict[str, Any]:
        return {row["id"]: row for row in self.node.request("GET", "/v1/deployments")[1]["data"]}
