"""What a name means, for the response cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.front.meaning import Meanings
from tests.unit.routing import front_parts
from tests.unit.routing.cache_samples import make_call
from tests.unit.routing.front_parts import front

ONE = """\
model_list:
  - model_name: chat
    litellm_params: {model: openai/gpt-4o, api_key: planted-key-0123456789, api_base: "http://127.0.0.1:9/v1"}
cache: {type: memory}
equivalents: "off"
"""


async def test_a_reload_that_changes_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model or parameter means something else; another key or a fallback more does not."""
    async with front(tmp_path, monkeypatch, ONE) as (made, _):
        meanings, call = Meanings(made._made.registry), make_call(model="chat")
        first = meanings(call)
        assert "planted" not in str(first)
        for old, new, same in (
            ("planted-key-0123456789", "planted-key-new", True),
            ("equivalents", "fallbacks: [{chat: [demo]}]\nequivalents", True),
            ("openai/gpt-4o,", "openai/gpt-4o-mini,", False),
            ("openai/gpt-4o,", "openai/gpt-4o, temperature: 0.5,", False),
        ):
            (tmp_path / "config.yaml").write_text(ONE.replace(old, new))
            await made.reload()
            assert (meanings(call) == first) is same, new
        assert meanings(make_call(model="nobody-knows/this one")) == []


async def test_a_fallbacks_answer_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name's own model is asked again next time; what the name stands for is kept."""
    text = ONE.replace("equivalents", "fallbacks: [{chat: [demo]}]\nequivalents")
    async with front(tmp_path, monkeypatch, text) as (made, ring):
        for model, second in (("chat", "false"), ("demo", "true")):
            replies = [await made.serve(make_call(model=model)) for _ in range(2)]
            assert replies[0].headers["x-exo-backend"] == "ring:demo"
            assert [one.headers["x-exo-cached"] for one in replies] == ["false", second]
        assert len(ring.attempts) == 3
        stands_in = Meanings(made._made.registry).stands_in
        assert stands_in(make_call(model="chat"), "ring:demo") and not stands_in(make_call(model="demo"), "ring:demo")
        assert not stands_in(make_call(model="nobody-knows/this one"), "ring:demo")


async def test_a_copy_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that stands for another local model by now is not answered with what the first one said."""
    monkeypatch.setattr(front_parts, "DEMO", replace(front_parts.DEMO, copies=("mine",)))
    async with front(tmp_path, monkeypatch, ONE) as (made, ring):

        async def ask() -> str:
            return (await made.serve(make_call(model="mine"))).headers["x-exo-cached"]

        assert [await ask(), await ask()] == ["false", "true"]
        other = LocalModel(id="other", loaded=True, copies=("mine",))
        monkeypatch.setattr(front_parts, "DEMO", other)
        assert [await ask(), await ask()] == ["false", "true"]
        assert [one.call.model for one in ring.attempts] == ["demo", "other"]
