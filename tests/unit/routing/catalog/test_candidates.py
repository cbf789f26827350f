"""Why a deployment cannot be asked."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.routing.catalog.candidates import CandidateMaker
from exo_node.routing.catalog.capabilities import Facts
from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.pricing import Pricing
from exo_node.routing.catalog.providers import complete
from exo_node.routing.catalog.tables import load_tables
from exo_node.routing.deployment import Deployment

TABLES = load_tables()
FACTS = Facts(TABLES, Equivalents(TABLES))


def maker(*, litellm: bool = True) -> CandidateMaker:
    return CandidateMaker(TABLES, FACTS, Pricing(TABLES, FACTS), lambda _: None, litellm_available=litellm)


def dep(model: str, **fields: Any) -> Deployment:
    one = Deployment(id="d", model_name="m", litellm_model=model, provider="", upstream_model="", **fields)
    return complete(one, {}, TABLES)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("openai/gpt-4", "no key for OpenAI: set OPENAI_API_KEY"),
        ("bedrock/x", "no key for AWS Bedrock: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("vllm/x", "no address for vLLM: give it an api_base or set HOSTED_VLLM_API_BASE"),
        ("watsonx/x", "no key for watsonx: set WATSONX_API_KEY"),
        ("my-model", "nothing says whose model 'my-model' is: write provider/model"),
        ("ollama/x", ""),
    ],
)
def test_reasons(model: str, said: str) -> None:
    """A reason says whose fault it is and what to set."""
    assert maker().rejected(dep(model)) == said


def test_a_peers_deployment_is_the_peers_to_judge() -> None:
    """This node has no key for it and needs none."""
    one = dep("openai/gpt-4", node_id="b")
    assert maker(litellm=False).rejected(one) == ""


def test_litellm_is_missed_only_by_who_needs_it() -> None:
    """A key is there, but the sidecar cannot run."""
    said = maker(litellm=False).rejected(dep("anthropic/x", params={"api_key": "k"}))
    assert said.endswith("pip install 'exo-node[litellm]'")
    assert maker(litellm=False).rejected(dep("groq/x", params={"api_key": "k"})) == ""
