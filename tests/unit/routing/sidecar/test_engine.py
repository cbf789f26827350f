"""The environment that LiteLLM finds."""

from __future__ import annotations

import os

import pytest

from exo_node.routing.sidecar.engine import LOCAL_ONLY, apply_environment


def test_apply_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the pipe come and go; whatever they say, nothing is fetched and no parameter is dropped."""
    for name in ("EXO_TEST_A_KEY", "A_KEY", "B_KEY", *LOCAL_ONLY):
        monkeypatch.delenv(name, raising=False)
    set_ = apply_environment({"A_KEY": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "False", "LITELLM_DROP_PARAMS": "1"}, {})
    assert (os.environ["A_KEY"], "LITELLM_DROP_PARAMS" in os.environ) == ("1", False)
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"
    assert apply_environment({"B_KEY": "2"}, set_) == {"B_KEY": "2"}
    assert ("A_KEY" in os.environ, os.environ["B_KEY"]) == (False, "2")
    for name in ("B_KEY", *LOCAL_ONLY):
        monkeypatch.delenv(name, raising=False)
