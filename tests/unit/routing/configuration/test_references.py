"""`${VAR}`, `os.environ/VAR`, `{secret}` and `~`."""

from __future__ import annotations

import pytest

from exo_node.routing.configuration.references import References, Unresolved

REFS = References({"HOME": "/home/me", "A": "one", "EMPTY": ""}, {"key": "s3cret", "odd": "x${A}"}.get)


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("plain", "plain"),
        ("${A}", "one"),
        ("http://${A}:1/${A}", "http://one:1/one"),
        ("${B:-two}", "two"),
        ("${EMPTY:-two}", "two"),
        ("${A:-two}", "one"),
        ("$${A}", "${A}"),
        ("os.environ/A", "one"),
        ("see os.environ/A", "see os.environ/A"),
        ("{key}", "s3cret"),
        ("~/x", "/home/me/x"),
        ("~x", "~x"),
        ("say {key}", "say {key}"),
        ('{"json": 1}', '{"json": 1}'),
    ],
)
def test_texts(text: str, resolved: str) -> None:
    """Each form stands for its value, and other texts for themselves."""
    assert REFS.resolve(text) == resolved


def test_secrets_inside_a_text() -> None:
    """Inside a longer text a known secret is filled in; an unknown one is left, or an error where `strict`."""
    assert REFS.resolve("Bearer {key}", embedded=True) == "Bearer s3cret"
    assert REFS.resolve("{{key}} {input}", embedded=True) == "{{key}} {input}"
    assert REFS.resolve("{key}/${A}", embedded=True) == "s3cret/one"
    assert REFS.resolve("a {odd}", embedded=True) == "a x${A}"
    with pytest.raises(Unresolved, match="no secret 'other'"):
        REFS.resolve("Bearer {other}", embedded=True, strict=True)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("${B}", "B", "the variable B is not set"),
        ("${EMPTY}", "EMPTY", "the variable EMPTY is not set"),
        ("os.environ/B", "B", "the variable B is not set"),
        ("{other}", "other", "there is no secret 'other': exo secrets set other"),
        ("${A", "", "is not followed by a name"),
    ],
)
def test_what_is_not_there(text: str, name: str, message: str) -> None:
    """A variable or a secret that is not there is named."""
    with pytest.raises(Unresolved, match=message.replace("$", r"\$")) as caught:
        REFS.resolve(text)
    assert caught.value.name == name


def test_repr_holds_no_value() -> None:
    """Neither variables nor secrets show in a repr."""
    assert "one" not in repr(REFS)
