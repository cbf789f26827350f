"""What Anthropic's API says beyond OpenAI's shape, fitted to each kind of backend."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.routing.anthropic_extras import KEY, for_provider, for_ring, needs_prefill

CACHED = {"cache_control": {"type": "ephemeral"}}
SIGNED = {"type": "thinking", "thinking": "claude's", "signature": "SIG"}
OURS = {"type": "thinking", "thinking": "ours", "signature": "exo"}
USER: dict[str, Any] = {
    "role": "user",
    "content": [{"type": "text", "text": "a", **CACHED}, {"type": "text", "text": "b"}],
}
SAID: dict[str, Any] = {"role": "assistant", "content": "x", "thinking_blocks": [SIGNED, OURS]}
START: dict[str, Any] = {"role": "assistant", "content": [{"type": "text", "text": "Once", **CACHED}]}


def body(*messages: dict[str, Any], **extras: Any) -> dict[str, Any]:
    return {"max_tokens": 5, "user": "u", "messages": list(messages), "tools": [{"function": {}, **CACHED}],
            KEY: extras}  # fmt: skip


def fitted(provider: str, model: str, *messages: dict[str, Any], **extras: Any) -> dict[str, Any]:
    made = body(*messages, **extras)
    for_provider(made, provider, model)
    assert KEY not in made
    return made


def test_the_ring() -> None:
    """One text a message, thoughts where templates look for them, the beginning of the answer taken off."""
    made, prefix, options = for_ring(body(USER, SAID, USER, START, prefill=True))
    assert (prefix, options) == ("Once", {})
    assert made["messages"] == [
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "x", "reasoning_content": "claude'sours"},
        {"role": "user", "content": "a\nb"},
    ]
    assert KEY not in made


def test_the_ring_with_vllms_words() -> None:
    """`continue_final_message` of a client of OpenAI's; other bodies stay as they are."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    sent = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    assert for_ring(sent) == ({"messages": messages[:1]}, "b", {})
    assert for_ring({"messages": messages}) == ({"messages": messages}, "", {})


@pytest.mark.parametrize(
    ("extras", "options"),
    [
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 20000}},
         {"reasoning_effort": "high"}),
        ({"effort": "medium"}, {"reasoning_effort": "medium"}),
    ],
)  # fmt: skip
def test_the_rings_templates_are_told_of_thinking(extras: dict[str, Any], options: dict[str, Any]) -> None:
    """A hint only: what the client of OpenAI's asks for by name may be refused, this never is."""
    made, _, told = for_ring(body(USER, **extras))
    assert told == options
    assert "reasoning_effort" not in made


def test_claude_gets_everything() -> None:
    """Marks for caches, thoughts that it signed itself, the thinking asked for."""
    made = fitted("anthropic", "claude-x", USER, SAID, thinking={"type": "adaptive"}, effort="max")
    assert made["messages"] == [USER, {"role": "assistant", "content": "x", "thinking_blocks": [SIGNED]}]
    assert made["tools"] == [{"function": {}, **CACHED}]
    assert (made["thinking"], made["output_config"]) == ({"type": "adaptive"}, {"effort": "max"})
    assert "thinking_blocks" not in fitted("anthropic", "claude-x", {**SAID, "thinking_blocks": [OURS]})["messages"][0]


def test_others_get_what_they_know() -> None:
    """Plain texts and tools; thoughts only where they are wanted back; an effort only for models that reason."""
    made = fitted("openai", "gpt-4o", USER, SAID, thinking={"type": "enabled", "budget_tokens": 5000}, effort="high")
    assert made == {
        "max_tokens": 5, "user": "u", "tools": [{"function": {}}],
        "messages": [{"role": "user", "content": "a\nb"}, {"role": "assistant", "content": "x"}],
    }  # fmt: skip
    made = fitted("deepseek", "deepseek-reasoner", SAID)
    assert made["messages"][0]["reasoning_content"] == "claude'sours"
    assert "user" not in made


def test_pictures_stay_parts() -> None:
    """Without the marks for caches."""
    picture = {"type": "image_url", "image_url": {"url": "u"}}
    made = fitted("openai", "gpt-4o", {"role": "user", "content": [{**picture, **CACHED}, USER["content"][1]]})
    assert made["messages"][0]["content"] == [picture, USER["content"][1]]


@pytest.mark.parametrize(
    ("extras", "effort"),
    [
        ({"effort": "xhigh"}, "high"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, "high"),
        ({"thinking": {"type": "disabled"}}, "low"),
        ({"thinking": {"type": "adaptive"}}, None),
    ],
)
def test_efforts(extras: dict[str, Any], effort: str | None) -> None:
    """In OpenAI's words, for its models that reason; their limit has another name."""
    made = fitted("openai", "gpt-5-mini", USER, **extras)
    assert (made.get("reasoning_effort"), made.get("max_completion_tokens"), "max_tokens" in made) == (effort, 5, False)


def test_prefills() -> None:
    """They are taken off the messages; only those asked for count."""
    made = body(USER, START, prefill=True)
    assert needs_prefill(made)
    assert not needs_prefill(body(USER, START))
    assert for_provider(made, "vllm", "m") == "Once"
    assert len(made["messages"]) == 1
