"""LiteLLM's own callbacks that a finished call can be told to, by name (as of LiteLLM 1.106; a test asks the package).

Not in here: those that exo-node has itself (langfuse, helicone, prometheus); what LiteLLM keeps under the same names
that hears of no finished call (prompt managers, rate limiters, hooks, exports of its proxy's database, mails); and
`generic_api`, which needs LiteLLM's Enterprise package.
"""

from __future__ import annotations

from collections.abc import Mapping

LITELLM_CALLBACKS = frozenset(
    {
        "agentops", "argilla", "arize", "arize_phoenix", "aws_sqs", "azure_sentinel", "azure_storage", "braintrust",
        "clickhouse", "datadog", "datadog_llm_observability", "datadog_metrics", "deepeval", "galileo", "gcs_bucket",
        "gcs_pubsub", "lago", "langfuse_otel", "langsmith", "langtrace", "levo", "literalai", "logfire",
        "mlflow", "newrelic", "openmeter", "opik", "otel", "pointfive", "posthog", "s3_v2", "signoz", "weave_otel",
        "zerobus",
    }
)  # fmt: skip

# Those that LiteLLM describes by an address and headers only (its generic_api_compatible_callbacks.json).
POSTED_CALLBACKS = frozenset({"qualifire_eval", "ramp", "rubrik", "sumologic"})

# Tables of `litellm_settings` with what loggers need besides the environment: buckets, queues, regions.
CALLBACK_PARAMS = ("s3_callback_params", "aws_sqs_callback_params")

# Names of LiteLLM's for an older logger of the same service.
SAME: Mapping[str, str] = {"s3": "s3_v2"}


def litellm_callback(name: str) -> str | None:
    """LiteLLM's name of the logger; None where it has none of that name."""
    name = SAME.get(name, name)
    return name if name in LITELLM_CALLBACKS | POSTED_CALLBACKS else None
