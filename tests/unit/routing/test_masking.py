"""No secret leaves a worker in words."""

from __future__ import annotations

import pytest

from exo_node.routing.masking import Masker, is_secret_name, secrets_in


@pytest.mark.parametrize(
    ("name", "secret"),
    [("api_key", True), ("OPENAI_API_KEY", True), ("azure_ad_token", True), ("client_secret", True),
     ("extra_headers", True), ("vertex_credentials", True), ("max_tokens", False), ("model", False),
     ("input_cost_per_token", False), ("api_base", False)],
)  # fmt: skip
def test_secret_names(name: str, secret: bool) -> None:
    """Names tell which values are secret; counts and prices of tokens are not."""
    assert is_secret_name(name) == secret


def test_secrets_at_any_depth() -> None:
    """Values below a secret-sounding name are secret, short words and other values are not."""
    params = {
        "api_key": "k-123456",
        "api_base": "http://somewhere",
        "vertex_credentials": {"project": "the-project", "lines": ["line-one"]},
        "password": "none",
    }
    assert secrets_in(params) == {"k-123456", "the-project", "line-one"}


def test_masks_known_and_shaped() -> None:
    """Known secrets go wherever they stand, the longer one first; what looks like a key goes too."""
    mask = Masker({"abcdef", "abcdefgh", "x"})
    assert mask("key abcdefgh, x") == "key ***, x"
    assert mask("sk-ant-0123456789-0123 failed") == "*** failed"
    assert mask("Authorization: Bearer abc.def-123") == "Authorization: Bearer ***"
    assert mask("http://g/v1?key=AIza99&alt=sse") == "http://g/v1?key=***&alt=sse"
