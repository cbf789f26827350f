"""Names of LiteLLM's callbacks (integration/sidecar holds them to the installed package)."""

from __future__ import annotations

from exo_node.routing.callbacks.names import litellm_callback


def test_names() -> None:
    """A logger's own name, the name of an older one of the same service, and what is none."""
    assert (litellm_callback("datadog"), litellm_callback("s3"), litellm_callback("ramp")) == (
        "datadog", "s3_v2", "ramp",
    )  # fmt: skip
    assert (litellm_callback("datadogs"), litellm_callback("dotprompt")) == (None, None)
